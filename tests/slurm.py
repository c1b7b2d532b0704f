"""SLURM on this machine alone: its daemons run as children of the tests, on loopback."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

PROGRAMS = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'squeue', 'scancel')
_PATH = os.pathsep.join((os.environ['PATH'], '/usr/sbin', '/sbin'))
_CONFIG = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=200000
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
KillWait=1
MailProg=/bin/true
ReturnToService=2
GresTypes=gpu
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:1
PartitionName=normal Nodes=ALL Default=YES MaxTime=INFINITE
"""


class CannotRun(RuntimeError):
    """SLURM is not installed on this machine, or does not start."""


class Slurm:
    """Cluster of one node with a GPU, whose device is ``/dev/null``."""

    def __init__(self) -> None:
        missing = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
        if missing:
            raise CannotRun(f'{", ".join(missing)}: not installed')
        self.folder = Path(tempfile.mkdtemp(prefix='slurm-'))
        self.environment = os.environ | {'SLURM_CONF': str(self.folder / 'slurm.conf')}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Slurm:
        try:
            self._configure()
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End all jobs and all daemons."""
        children = []
        if self._daemons and self._is_up():
            self.call('scancel', f'--user={os.getuid()}')
            self.wait(20)
        for daemon in reversed(self._daemons):
            if daemon.poll() is None:
                children += psutil.Process(daemon.pid).children(recursive=True)
            daemon.terminate()
        for daemon in self._daemons:
            _wait_or_kill(daemon)
        for child in children:
            if child.is_running():
                child.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, *words: str) -> str:
        """Return the output of a command of SLURM."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True)
        return done.stdout

    def wait(self, timeout: float) -> bool:
        """Wait until no job is left; return False after the timeout."""
        end = time.monotonic() + timeout
        while self.call('squeue', '--noheader'):
            if time.monotonic() > end:
                return False
            time.sleep(0.2)
        return True

    def _configure(self) -> None:
        folder = self.folder
        for name in ('state', 'spool'):
            (folder / name).mkdir()
        key = folder / 'munge.key'
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        text = _CONFIG.format(
            host=socket.gethostname().split('.')[0],
            controller_port=_free_port(),
            node_port=_free_port(),
            user=pwd.getpwuid(os.getuid()).pw_name,
            folder=folder,
            cpus=os.cpu_count(),
            memory=psutil.virtual_memory().total // 2**20 - 100,
        )
        (folder / 'slurm.conf').write_text(text)
        (folder / 'gres.conf').write_text('NodeName=node Name=gpu File=/dev/null\n')
        # Control groups are not used; without a named plugin, SLURM searches for one.
        (folder / 'cgroup.conf').write_text(
            f'CgroupPlugin=cgroup/v1\nCgroupMountpoint={folder}/none\n'
        )

    def _start(self) -> None:
        folder = self.folder
        names = {'socket': 'socket', 'pid-file': 'pid', 'log-file': 'log', 'seed-file': 'seed'}
        options = [f'--{option}={folder}/munge.{end}' for option, end in names.items()]
        key = f'--key-file={folder}/munge.key'
        self._launch('munged', '--foreground', '--force', key, *options)
        self._until(lambda: (folder / 'munge.socket').exists(), 'munged')
        self._launch('slurmctld', '-D')
        self._launch('slurmd', '-D', '-N', 'node')
        self._until(self._is_up, 'slurmd')

    def _launch(self, program: str, *options: str) -> None:
        words = [shutil.which(program, path=_PATH), *options]
        with (self.folder / f'{program}.out').open('wb') as log:
            self._daemons.append(
                subprocess.Popen(words, env=self.environment, stdout=log, stderr=log)
            )

    def _is_up(self) -> bool:
        return self.call('sinfo', '--noheader', '--format=%T').strip() in ('idle', 'mixed')

    def _until(self, condition: object, program: str, timeout: float = 30) -> None:
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end or any(d.poll() is not None for d in self._daemons):
                said = (self.folder / f'{program}.out').read_text(errors='replace').split('\n')
                raise CannotRun(f'{program} does not start: {" / ".join(said[-4:]).strip()}')
            time.sleep(0.1)


def _wait_or_kill(daemon: subprocess.Popen[bytes]) -> None:
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]
