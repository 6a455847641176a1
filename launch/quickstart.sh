#!/usr/bin/env bash
# From raw text to two Hugging Face models in one call, on whatever is here: its GPUs, or two CPU ranks.
#
#   bash launch/quickstart.sh [key=value ...]
#
# Each step skips what an earlier call has finished. Overrides go to the recipe.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/environment.sh

step() { printf '\n== %s\n' "$*"; }

step "tokenizer: SentencePiece with byte fallback, 14 languages -> tokenizers/sample"
python tools/train_tokenizer.py --input launch/sample_corpus --output tokenizers/sample --vocab-size 8192

step "corpus: Arrow shards, one folder per language -> corpora/sample"
python tools/preprocess.py --input launch/sample_corpus --tokenizer tokenizers/sample --output corpora/sample --held-out 0.2

step "pretraining: encoder (MLM), then encoder-decoder with the encoder frozen, then unfrozen -> runs/sample"
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
if [ "$gpus" = 0 ]; then
  ranks=2 # on the CPU, over gloo
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} DS_ACCELERATOR=cpu
  echo "no GPU here: $ranks ranks on the CPU"
else
  ranks=1 # doubled while GPUs are left: the recipe's 32 rows a step are shared evenly
  while [ $((2 * ranks)) -le "$gpus" ] && [ "$ranks" -lt 32 ]; do ranks=$((2 * ranks)); done
  echo "$ranks of $gpus GPUs: a power of two, so that the recipe's 32 rows a step are shared evenly"
fi
deepspeed --num_gpus "$ranks" launch/pretrain.py launch/recipes/sample.yaml "$@"

step "export: Hugging Face folders -> exports/sample_encoder, exports/sample_seq2seq"
python tools/convert_to_hf.py runs/sample/mlm exports/sample_encoder --overwrite
python tools/convert_to_hf.py runs/sample/seq2seq exports/sample_seq2seq --overwrite

step "reloaded with transformers"
python tools/show_exports.py exports/sample_encoder exports/sample_seq2seq

cat <<'END'

Where things lie
  weights      runs/sample/<stage>/weights        canonical names, safetensors
  exports      exports/sample_encoder, exports/sample_seq2seq
  metrics      runs/sample/metrics.jsonl
  TensorBoard  tensorboard --logdir runs/sample/tensorboard
END
