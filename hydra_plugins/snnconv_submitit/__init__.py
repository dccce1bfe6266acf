"""Launcher of Hydra that runs each job of a sweep through submitit: on Slurm, or in processes of this machine.

conf/hydra/launcher/slurm.yaml and local.yaml hold its settings.  Hydra finds launchers only in the package `hydra_plugins`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

# Parameters of submitit that every cluster has; others get the cluster's name as a prefix (slurm_partition).
SHARED = (
    "name",
    "timeout_min",
    "cpus_per_task",
    "gpus_per_node",
    "mem_gb",
    "nodes",
    "tasks_per_node",
    "stderr_to_stdout",
)


class SubmititLauncher(Launcher):
    """Runs the jobs of a sweep on `cluster` (slurm | local); `folder` receives submitit's files and logs."""

    def __init__(self, cluster: str, folder: str, **parameters: Any) -> None:
        self.cluster, self.folder = cluster, folder
        given = {name: value for name, value in parameters.items() if value is not None}
        self.parameters = {
            name if name in SHARED else f"{cluster}_{name}": OmegaConf.to_object(value)
            if OmegaConf.is_config(value)
            else value
            for name, value in given.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what the jobs need."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit all jobs as one array and wait for them."""
        try:
            import submitit
        except ImportError as error:
            raise HydraException("hydra/launcher=…: jobs need submitit: pip install 'snnconv[cluster]'") from error
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        executor = submitit.AutoExecutor(folder=self.folder, cluster=self.cluster)
        executor.update_parameters(**self.parameters)
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        states = [Singleton.get_state()] * len(job_overrides)
        jobs = executor.map_array(self, [list(overrides) for overrides in job_overrides], numbers, states)
        return [job.result() for job in jobs]

    def __call__(self, overrides: list[str], number: int, singletons: dict[type, Singleton]) -> JobReturn:
        """Run one job, in the process that submitit has started for it."""
        import submitit

        Singleton.set_state(singletons)
        setup_globals()
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config.hydra.job):
            config.hydra.job.id, config.hydra.job.num = submitit.JobEnvironment().job_id, number
        return run_job(task_function=self.task_function, config=config, job_dir_key="hydra.sweep.dir",
                       job_subdir_key="hydra.sweep.subdir", hydra_context=self.hydra_context)  # fmt: skip
