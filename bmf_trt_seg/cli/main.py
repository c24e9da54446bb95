"""`bmf-trt-seg`: the verbs, and how they end. Exit codes: 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import click

from bmf_trt_seg import __version__
from bmf_trt_seg.cli import logs
from bmf_trt_seg.errors import ConfigError, SegError

__all__ = ["main"]

_VERBS = {
    "segment": "bmf_trt_seg.cli.segment",
    "batch": "bmf_trt_seg.cli.batch",
    "images": "bmf_trt_seg.cli.images",
    "infer": "bmf_trt_seg.cli.infer",
    "render": "bmf_trt_seg.cli.render",
    "run": "bmf_trt_seg.cli.run",
    "live": "bmf_trt_seg.cli.live",
    "graph": "bmf_trt_seg.cli.graph",
    "models": "bmf_trt_seg.cli.models",
    "build": "bmf_trt_seg.cli.build",
    "bench": "bmf_trt_seg.cli.bench",
    "eval": "bmf_trt_seg.cli.evaluate",
    "inspect": "bmf_trt_seg.cli.inspect",
    "doctor": "bmf_trt_seg.cli.doctor",
}


class _Verbs(click.Group):
    """Verbs that are imported when they are used: `--help` should not wait for BMF."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = __import__(_VERBS[cmd_name], fromlist=["command"])
        command: click.Command = module.command
        return command


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="bmf-trt-seg")
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
@click.pass_context
def _cli(context: click.Context, debug: bool) -> None:
    """Segmentation on video, as a node of a BMF graph."""
    context.obj = {"debug": debug}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    _open_closed_streams()
    for number in (signal.SIGTERM, signal.SIGHUP):  # end as with Ctrl-C, so that nothing is left half-written
        signal.signal(number, signal.default_int_handler)
    # threads that numerical libraries start and let spin get in the way of decoder, network and encoder
    for library in ("OMP", "OPENBLAS"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    with logs.messages():
        code = _run(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    if any(
        thread.name in ("graph", "engine build") or thread.name.startswith("feed ") for thread in threading.enumerate()
    ):
        os._exit(code)  # C or C++ that would not end at once: it would outlive the interpreter
    sys.exit(code)


def _open_closed_streams() -> None:
    """Daemons and cron jobs may start us without standard streams; files we open must not get their numbers."""
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def _run(arguments: list[str] | None) -> int:
    debug = "--debug" in (arguments if arguments is not None else sys.argv[1:])
    try:
        result: Any = _cli.main(arguments, prog_name="bmf-trt-seg", standalone_mode=False)
    except click.ClickException as error:
        if logs.is_json():
            logs.failure(error.format_message())
        else:
            error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        logs.failure("stopped")
        return 1
    except SegError as error:
        logs.failure(error, with_traceback=debug)
        return 2 if isinstance(error, ConfigError) else 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader of our output has left; nobody to tell
        return 1
    except Exception as error:  # a bug of ours
        if not logs.is_json():
            raise
        logs.failure(error, with_traceback=True)
        return 1
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    main()
