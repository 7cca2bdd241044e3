"""Join the bundled reference: scores in nats, and Q-BERT's Ω of each layer beside them, so that its recipes apply.

    python -m benchmarks.reference.reference runs/reference.json runs/omega.json OUT.json.gz

`make reference` makes both files: `directional` scores of the whole grid, and `qbert` scores of fewer texts, because Ω
takes some 1,500 products with the Hessian. Both must be of one model.
"""

import gzip
import sys
from pathlib import Path

from qbert_opt.spec.scores import read_scores


def main() -> None:
    scores, sensitivity, target = (Path(argument) for argument in sys.argv[1:])
    table, omega = read_scores(scores), read_scores(sensitivity)
    if table.profile.sha256 != omega.profile.sha256:
        raise SystemExit(f"{sensitivity}: is of another model than {scores}")
    joined = table.model_copy(update={"block_sensitivity": omega.block_sensitivity})
    target.write_bytes(gzip.compress(joined.model_dump_json(by_alias=True).encode(), 9, mtime=0))
    print(f"wrote {target}: {table.metric} and the Ω of {len(omega.block_sensitivity)} layers")


if __name__ == "__main__":
    main()
