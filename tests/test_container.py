"""What the container promises.

That the image builds and runs is shown by tools/container_check.py, which takes root and minutes.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def stages() -> list[list[tuple[str, str]]]:
    """Instructions of each stage of the Dockerfile, with their arguments."""
    text = (ROOT / 'Dockerfile').read_text(encoding='utf-8')
    joined = re.sub(r'\\\n\s*', '', re.sub(r'^#.*\n', '', text, flags=re.M))
    found = []
    for line in filter(None, joined.splitlines()):
        instruction, _, rest = line.partition(' ')
        if instruction == 'FROM':
            found.append([])
        found[-1].append((instruction, rest))
    return found


BUILD, FINAL = stages()


def of(stage: list[tuple[str, str]], instruction: str) -> list[str]:
    return [rest for name, rest in stage if name == instruction]


def test_the_entry_point_is_the_app() -> None:
    assert of(FINAL, 'ENTRYPOINT') == ['["deepreg_wf"]']
    (check,) = of(FINAL, 'HEALTHCHECK')
    assert check.endswith('CMD ["deepreg_wf", "--version"]')


def test_the_user_is_not_root_and_has_a_number() -> None:
    (user,) = of(FINAL, 'USER')
    assert re.fullmatch(r'[1-9]\d*:[1-9]\d*', user)


def test_the_base_is_pinned_to_one_release_of_python() -> None:
    bases = {rest.split()[0] for stage in (BUILD, FINAL) for rest in of(stage, 'FROM')}
    (base,) = bases
    assert re.fullmatch(r'python:3\.\d+\.\d+-slim-\w+', base)
    assert f'org.opencontainers.image.base.name=docker.io/library/{base}' in ' '.join(
        of(FINAL, 'LABEL')
    )


def test_every_installation_is_constrained() -> None:
    installs = [rest for rest in of(BUILD, 'RUN') if 'pip install' in rest]
    assert installs
    assert all('-c constraints.txt' in rest for rest in installs)


def test_the_image_has_the_environment_and_nothing_that_built_it() -> None:
    assert of(FINAL, 'COPY') == ['--from=build /opt/deepreg_wf /opt/deepreg_wf']
    assert not [rest for rest in of(FINAL, 'RUN') if re.search(r'\b(pip|apt-get)\b', rest)]
    assert 'PIP_NO_CACHE_DIR=1' in ' '.join(of(BUILD, 'ENV'))


def test_what_is_copied_is_not_ignored() -> None:
    ignored, *kept = (ROOT / '.dockerignore').read_text(encoding='utf-8').split()
    assert ignored == '*'
    for rest in of(BUILD, 'COPY'):
        *sources, _ = rest.split()
        assert {f'!{source}' for source in sources} <= set(kept)
        assert all((ROOT / source).exists() for source in sources)


def test_apptainer_makes_the_same_of_it() -> None:
    text = (ROOT / 'apptainer.def').read_text(encoding='utf-8')
    assert re.search(r'^Bootstrap: docker-archive\nFrom: deepreg_wf\.tar$', text, re.M)
    assert re.search(r'^%runscript\n    exec deepreg_wf "\$@"$', text, re.M)
    assert re.search(r'^%test\n    deepreg_wf --version$', text, re.M)
