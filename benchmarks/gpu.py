"""`python benchmarks/gpu.py`: parity and speed on a GPU with torch, straight against rewritten."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # A script sees its own folder first; here the packages beside that folder are meant.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from benchmarks.command import main

    main()
