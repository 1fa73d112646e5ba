"""`python -m mip_edge` is the command `mip-edge`."""

from mip_edge.cli import main

if __name__ == "__main__":
    main()
