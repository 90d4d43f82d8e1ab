"""Progress of long passes over images."""

import contextlib

from usss_jax.data.progress import Progress


def test_without_a_terminal_there_is_a_plain_line_every_ten_seconds(monkeypatch, capsys):
    clock = iter([0.0, 0.5, 10.0, 10.5, 20.0, 21.0])
    monkeypatch.setattr("usss_jax.data.progress.time.monotonic", lambda: next(clock))
    with contextlib.closing(Progress()) as progress:
        step = progress.start("mine", 100, 10)
        for _ in range(5):
            step()
    assert capsys.readouterr().err.splitlines() == [
        "mine: 10 of 100 images were done before",
        "mine: 12/100  5.00s/ images, 07:20 to go",
        "mine: 14/100  5.00s/ images, 07:10 to go",
    ]


def test_one_that_never_started_can_be_closed():
    Progress().close()
