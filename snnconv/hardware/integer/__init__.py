"""Spiking networks in integer arithmetic: conversion, a golden model in NumPy, files."""
