"""`python -m gpumod` is the same program as `gpumod`."""

from gpumod.cli.main import main

if __name__ == "__main__":
    main()
