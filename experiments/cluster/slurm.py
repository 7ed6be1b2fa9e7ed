"""Labels by jobs of SLURM: starts a Dask scheduler here and Dask workers as jobs, gives an `eipnn label` command their
address, and ends the jobs with it.

    python slurm.py --jobs 20 --cores 32 --queue cpu -- eipnn label pool.extxyz --eips silicon -o labels

Needs `pip install 'eipnn[cluster]' dask-jobqueue`, and a file system that the jobs share with this machine, for Python
alone. A job that ends, at its time limit too, is followed by another one while the command runs.
"""

import argparse
import subprocess
import sys

from dask_jobqueue import SLURMCluster


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="that run at once")
    parser.add_argument("--cores", type=int, default=8, help="of a job: so many structures are labelled at once")
    parser.add_argument("--memory", default="16GB", help="of a job")
    parser.add_argument("--walltime", default="04:00:00", help="of a job")
    parser.add_argument("--queue", help="partition")
    parser.add_argument("--account")
    parser.add_argument("--interface", help="network between this machine and the jobs, such as ib0")
    parser.add_argument("command", nargs="+", help="behind --")
    given = vars(parser.parse_args())
    command, jobs = given.pop("command"), given.pop("jobs")
    # threads of one process wait for the label processes, which are of their own
    with SLURMCluster(processes=1, **given) as cluster:
        cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)
        return subprocess.call([*command, "--cluster", cluster.scheduler_address])


if __name__ == "__main__":
    sys.exit(main())
