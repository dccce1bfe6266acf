"""Files left by a killed command, compared with those of an uninterrupted one."""
