"""Test of the container image, on a machine without a container engine.

sudo python3 tools/container_check.py [--folder DIR] [--build-arg NAME=VALUE] [--bids DIR LABEL]

It takes Debian with buildah and debootstrap, and root. The base image is made by debootstrap,
under the name that the Dockerfile has for it. The run has no network, a read-only root, a
read-only dataset, a user that nobody knows and a home that does not exist. Without --bids the
dataset is that of the demonstration, which the image makes itself.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
IMAGE = 'deepreg_wf'
UID = 54321
PACKAGES = ('ca-certificates', 'python3-distutils', 'python3.11', 'python3.11-venv')
DERIVATIVES = (
    'anat/sub-{}*_desc-brain_mask.nii.gz',
    'anat/sub-{}*_from-T1w_to-MNI152NLin2009aSym_mode-image_xfm.h5',
    'anat/sub-{}*_from-MNI152NLin2009aSym_to-T1w_mode-image_xfm.h5',
    'anat/sub-{}*_space-MNI152NLin2009aSym_desc-preproc_T1w.nii.gz',
    'anat/sub-{}*_space-MNI152NLin2009aSym_desc-momentum_T1w.nii.gz',
    'anat/sub-{}*_space-MNI152NLin2009aSym_desc-registration_qc.json',
)
DEMO = """
from pathlib import Path
from deepreg_wf.demo.dataset import SUBJECTS, write_demo_dataset
for _ in write_demo_dataset(
    Path('/out/bids'), Path('/work/truth'), cache_dir=Path('/work'), subjects=SUBJECTS[:1]
): pass
"""
PROBE = """
import os, socket
from pathlib import Path
assert os.getuid() != 0 and not Path.home().exists()
assert [name for _, name in socket.if_nameindex()] == ['lo']
for folder in ('/', '/opt/deepreg_wf', '/home/deepreg', '/data'):
    try:
        Path(folder, 'probe').touch()
    except OSError:
        continue
    raise SystemExit(f'{folder} can be written')
"""
BOX = """
set -eu
root=$1; user=$2; data=$3; out=$4; work=$5; shift 5
mount --make-rprivate /
mount --bind "$root" "$root"
for pair in "$data:/data" "$out:/out" "$work:/work"; do
    mount --bind "${pair%:*}" "$root${pair##*:}"
done
mount -o remount,bind,ro "$root/data"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for name in null zero full random urandom; do
    touch "$root/dev/$name"
    mount --bind "/dev/$name" "$root/dev/$name"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/dev/shm"
mount -t tmpfs -o mode=1777,size=64m tmpfs "$root/dev/shm"
exec setpriv --no-new-privs chroot --userspec="$user:$user" --groups= "$root" "$@"
"""


@dataclass(frozen=True, kw_only=True)
class Container:
    """A container of the image, mounted, and what the image says of how to run it."""

    root: Path
    config: dict[str, Any]

    def run(self, words: Sequence[str], *, data: Path, out: Path, work: Path) -> None:
        """Run a command as an engine would, with nothing but these three folders."""
        call(
            ['unshare', '--mount', '--net', '--ipc', '--pid', '--fork', '--kill-child']
            + ['sh', '-c', BOX, 'box', str(self.root), str(UID), str(data), str(out), str(work)]
            + ['env', '--ignore-environment', f'--chdir={self.config["WorkingDir"]}']
            + [*self.config['Env'], 'HOME=/nonexistent', *words],
            name=f'In the container {" ".join(words)}',
        )


class Builder:
    """Buildah with a storage of its own, so that it touches no other image."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = ['buildah', '--root', str(folder / 'storage')]
        self.program += ['--runroot', str(folder / 'run'), '--storage-driver', 'vfs']

    def __call__(self, *words: str, quiet: bool = False) -> str:
        """Run a command of buildah; return its output if it is not shown."""
        return call([*self.program, *words], quiet=quiet)

    def has(self, image: str) -> bool:
        """Return whether an image is in the storage."""
        listing = self('images', '--format', '{{.Name}}:{{.Tag}}', quiet=True)
        return any(line.endswith(f'/{image}') for line in listing.splitlines())

    def make_base(self, name: str) -> None:
        """Make an image of Debian with its Python at the path of the official image."""
        tree = self.folder / 'base'
        shutil.rmtree(tree, ignore_errors=True)
        include = f'--include={",".join(PACKAGES)}'
        call(['debootstrap', '--variant=minbase', include, 'bookworm', str(tree)], quiet=True)
        for link in ('python', 'python3'):
            (tree / 'usr/local/bin' / link).symlink_to('/usr/bin/python3.11')
        container = self('from', 'scratch', quiet=True).strip()
        self('add', '--quiet', container, f'{tree}/', quiet=True)
        self('commit', '--quiet', '--rm', container, f'docker.io/library/{name}', quiet=True)
        shutil.rmtree(tree)

    def build(self, clone: Path, arguments: Iterable[str]) -> None:
        """Build the Dockerfile, with the settings of this machine's pip."""
        settings, paths = pip_settings()
        pip_conf = self.folder / 'pip.conf'
        pip_conf.write_text(settings, encoding='utf-8')
        volumes = {pip_conf: '/etc/pip.conf', **{path: str(path) for path in paths}}
        self(
            *('build', '--isolation', 'chroot', '--network', 'host', '--format', 'docker'),
            *(f'--volume={path}:{place}:ro' for path, place in volumes.items()),
            *(f'--build-arg={argument}' for argument in arguments),
            *('--tag', IMAGE, str(clone)),
        )

    @contextmanager
    def container(self) -> Iterable[Container]:
        """Mount a new container of the image."""
        name = self('from', IMAGE, quiet=True).strip()
        try:
            root = Path(self('mount', name, quiet=True).strip())
            for folder in ('data', 'out'):
                (root / folder).mkdir()
            config = json.loads(self('inspect', name, quiet=True))['Docker']['config']
            yield Container(root=root, config=config)
        finally:
            self('rm', name, quiet=True)


def call(words: Sequence[str], *, quiet: bool = False, name: str = '') -> str:
    """Run a command; exit if it fails."""
    done = subprocess.run(words, text=True, stdout=subprocess.PIPE if quiet else None)
    if done.returncode:
        sys.exit(f'{name or " ".join(words)}: failed with exit status {done.returncode}')
    return done.stdout or ''


def pip_settings() -> tuple[str, list[Path]]:
    """Return the settings of pip on this machine as a pip.conf, and the paths that they name."""
    list_them = [sys.executable, '-m', 'pip', 'config', 'list']
    listing = subprocess.run(list_them, capture_output=True, text=True).stdout
    found = re.findall(r"^(?:global|install|:env:)\.([\w-]+)=('.*')$", listing, re.M)
    settings = {name: ' '.join(ast.literal_eval(value).split()) for name, value in found}
    text = ''.join(f'{name} = {value}\n' for name, value in settings.items())
    named = {Path(path) for path in re.findall(r'(?:(?<=[\s=])|(?<=file://))/\S+', text)}
    folders = {path.parent if path.name == 'simple' else path for path in named}
    return f'[global]\n{text}', sorted(path for path in folders if path.exists())


def check(builder: Builder, arguments: Iterable[str], bids: tuple[Path, str] | None) -> None:
    """Build, run and print the cost."""
    clone = builder.folder / 'clone'
    shutil.rmtree(clone, ignore_errors=True)
    call(['git', 'clone', '--quiet', str(ROOT), str(clone)])
    base = re.findall(r'^FROM (\S+)', (clone / 'Dockerfile').read_text('utf-8'), re.M)[-1]
    if not builder.has(base):
        builder.make_base(base)
    start = time.time()
    builder.build(clone, arguments)
    told = {'build': f'{time.time() - start:.0f} s'}
    with builder.container() as container:
        ours = megabytes(container.root / 'opt')
        told['size'] = f'{megabytes(container.root)} MB, {ours} MB of it on top of the base'
        told['run'] = f'{run(container, builder.folder, bids):.0f} s'
    for name, value in told.items():
        print(f'{name:8}{value}')


def run(container: Container, folder: Path, bids: tuple[Path, str] | None) -> float:
    """Run a command as an engine would, with these three folders mounted."""
    job = folder / 'job'
    shutil.rmtree(job, ignore_errors=True)
    places = {name: job / name for name in ('data', 'out', 'work')}
    for place in places.values():
        place.mkdir(parents=True)
        os.chown(place, UID, UID)
    container.run(container.config['Healthcheck']['Test'][1:], **places)
    container.run(['python', '-c', PROBE], **places)
    if bids is None:
        container.run(['python', '-c', DEMO], **places)
        bids = (places['out'] / 'bids').rename(job / 'bids'), '01'
    places['data'], label = bids
    start = time.time()
    words = ['/data', '/out', 'participant', '--participant-label', label]
    container.run([*container.config['Entrypoint'], *words], **places)
    seconds = time.time() - start
    look_at(places['out'], label)
    return seconds


def look_at(out: Path, label: str) -> None:
    """Exit if a derivative is missing."""
    patterns = [f'sub-{label}.html', *(f'sub-{label}/**/{name}' for name in DERIVATIVES)]
    missing = [
        pattern.format(label)
        for pattern in patterns
        if not any(file.stat().st_size for file in out.glob(pattern.format(label)))
    ]
    if missing:
        sys.exit(f'The run left no {", ".join(missing)}.')


def megabytes(folder: Path) -> int:
    """Return the size of a folder."""
    return int(call(['du', '-sm', str(folder)], quiet=True).split()[0])


def main() -> None:
    """Parse the command line, and check."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--folder', type=Path, help='where all is kept, for the next time')
    parser.add_argument('--build-arg', action='append', default=[], metavar='NAME=VALUE')
    parser.add_argument('--bids', nargs=2, metavar=('DIR', 'LABEL'), help='a participant')
    options = parser.parse_args()
    lacking = [name for name in ('buildah', 'debootstrap') if not shutil.which(name)]
    if lacking or os.geteuid():
        sys.exit(f'Run it as root, after: apt-get install {" ".join(lacking)}')
    bids = (Path(options.bids[0]).resolve(), options.bids[1]) if options.bids else None
    with tempfile.TemporaryDirectory(prefix='deepreg_wf-') as scratch:
        folder = (options.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        check(Builder(folder), options.build_arg, bids)


if __name__ == '__main__':
    main()
