"""Prints one JSON line a case; exit status 1 if any fails."""

import argparse
import json
import sys
from pathlib import Path

from tests.parity.cases import find_cases
from tests.parity.compare import compare


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--method", help="only this method, for example memit")
    options = parser.parse_args()
    cases = [case for folder in options.folders for case in find_cases(folder, options.method)]
    if not cases:
        parser.error(f"no case of {options.method or 'any method'} in {', '.join(map(str, options.folders))}")
    failed = False
    for case in cases:
        row = compare(case)
        failed |= row["result"] == "fail"
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
