#!/bin/bash
# Teach one encoder to write, on every task of the page: bash tune.sh METHOD pretrained|random SEED, with $MEGAS2S_DEV_DATA
# naming the data and docs/runs/recipes/arms.sh done for the seed.
set -eu
method=$1 start=$2 seed=$3
export OMP_NUM_THREADS=1
tasks=$MEGAS2S_DEV_DATA/tasks
noise=$([ "$method" = masked ] && echo 0.5 || echo 0.3)
anew=$([ "$start" = random ] && echo 'reinitialise=["encoder.*", "mlm.*"]' || echo 'reinitialise=[]')

tune() { # task, overrides
    python launch/finetune.py docs/runs/s2sft/tune.yaml run="runs/s2sft/$1_${method}_${start}_$seed" seed="$seed" \
        init="runs/recipes/two_stage_$seed/mlm" "method={name: $method, target_mask_prob: $noise}" "$anew" "${@:2}"
}

one() { # folder of a task: its three files
    echo "data.train=$tasks/$1/train.jsonl" "data.dev=$tasks/$1/dev.jsonl" "data.test=$tasks/$1/test.jsonl"
}

tune qg $(one qg)
tune translate $(one translate/en-de) length=64 target_length=64 epochs=1
tune headline length=128 target_length=40 max_positions=168 epochs=6 \
    "data.train={en: $tasks/headline/en/train.jsonl, fr: $tasks/headline/fr/train.jsonl, sw: $tasks/headline/sw/train.jsonl}" \
    "data.dev={en: $tasks/headline/en/dev.jsonl, fr: $tasks/headline/fr/dev.jsonl, sw: $tasks/headline/sw/dev.jsonl}" \
    "data.test={en: $tasks/headline/en/test.jsonl, fr: $tasks/headline/fr/test.jsonl, sw: $tasks/headline/sw/test.jsonl}"
if [ "$method" = pseudo_masked ] && [ "$start" = pretrained ]; then # learnt in English, tried in French and Swahili
    tune zero_shot length=128 target_length=40 max_positions=168 epochs=6 \
        "data.train={en: $tasks/headline/en/train.jsonl}" "data.dev={en: $tasks/headline/en/dev.jsonl}" \
        "data.test={en: $tasks/headline/en/test.jsonl, fr: $tasks/headline/fr/test.jsonl, sw: $tasks/headline/sw/test.jsonl}"
fi
