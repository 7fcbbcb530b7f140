#!/usr/bin/env bash
# The main job on real images: `make demo`. Everything it makes lies in demo/, or in the folder given.
set -euo pipefail
cd "$(dirname "$0")/.."
demo=${1:-demo}
mkdir -p "$demo"
export PATH="$PWD/.venv/bin:$PATH"

run() { printf '\n$ %s\n' "$*"; "$@"; }
run sdc extract --backbone efficientnet_lite0 --data fashion-mnist --image-size 96 --limit 12000 --out "$demo/feats.h5"
run sdc train --features "$demo/feats.h5" --bits 64 --out "$demo/model.safetensors"
run sdc encode --features "$demo/feats.h5" --model "$demo/model.safetensors" --out "$demo/db.bin"
run sdc search --index "$demo/db.bin" --limit 3 -k 5
run sdc evaluate --index "$demo/db.bin" --neighbors float
run python bench/quality_bench.py --features "$demo/feats.h5" --bits 64 --methods default,itq,lsh --out "$demo/quality.md"
cat <<END

$demo/ holds feats.h5 (the features), model.safetensors (the hash head), db.bin (the codes, searchable)
and quality.md (the table above). Next, search it with an image of yours:

  .venv/bin/sdc search --index $demo/db.bin --image PHOTO.jpg
END
