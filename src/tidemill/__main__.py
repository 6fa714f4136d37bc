"""The command `tidemill`."""

import sys


def main() -> None:
    """Run the command line; `--version` must not wait for anything that it does not need."""
    if sys.argv[1:] == ["--version"]:
        from tidemill import __version__

        sys.stdout.write(f"tidemill {__version__}\n")
        return
    try:
        from tidemill.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
