"""The queue of jobs: its file, the progress of each job, the process that runs one, and the programs that start workers."""
