"""Join the bundled reference: scores in nats, and Q-BERT's Ω of each layer beside them, so that its recipes apply.

    python -m benchmarks.reference.reference runs/reference.json runs/omega.json OUT.json.gz

`make reference` makes both files: `directional` scores of the whole grid, and `qbert` scores of fewer texts, because Ω
takes some 1,500 products with the Hessian. Both must be of one model.
"""

import argparse
import gzip
from pathlib import Path

from qbert_opt.spec.scores import read_scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path)
    parser.add_argument("sensitivity", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    table, omega = read_scores(options.scores), read_scores(options.sensitivity)
    if table.profile.sha256 != omega.profile.sha256:
        raise SystemExit(f"{options.sensitivity}: is of another model than {options.scores}")
    joined = table.model_copy(update={"block_sensitivity": omega.block_sensitivity})
    options.target.write_bytes(gzip.compress(joined.model_dump_json(by_alias=True).encode(), 9, mtime=0))
    print(f"wrote {options.target}: {table.metric} and the Ω of {len(omega.block_sensitivity)} layers")


if __name__ == "__main__":
    main()
