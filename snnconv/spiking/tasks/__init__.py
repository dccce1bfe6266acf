"""Tasks: loss, score, readout and metrics for classes, labels, numbers and maps."""

from snnconv.spiking.tasks.base import TASKS as TASKS
from snnconv.spiking.tasks.base import Task as Task
from snnconv.spiking.tasks.classify import Classify as Classify
from snnconv.spiking.tasks.dense import Dense as Dense
from snnconv.spiking.tasks.multilabel import Multilabel as Multilabel
from snnconv.spiking.tasks.readout import LEAK as LEAK
from snnconv.spiking.tasks.readout import running_mean as running_mean
from snnconv.spiking.tasks.regress import Regress as Regress

CLASSIFY = Classify()
