#!/bin/bash
# Fine-tune one model on every task of the page: bash tasks.sh WEIGHTS NAME SEED, with $MEGAS2S_DEV_DATA naming the data.
set -eu
weights=$1 name=$2 seed=$3
tasks=$MEGAS2S_DEV_DATA/tasks
common=(init="$weights" seed="$seed" "engine={name: local}" precision=fp32 dropout=0.1 log.every=50 log.evaluate_every=0)
common+=(schedule.lr=5.0e-4 log.tensorboard=false trial_step=false)

tune() { # recipe, folder of the run, overrides
    python launch/finetune.py "launch/finetuning/$1.yaml" run="runs/e2s2_tasks/$2_$name" "${common[@]}" "${@:3}"
}

tune classify cola part=encoder epochs=3 length=48 \
    data.train="$tasks/cola/train.jsonl" data.dev="$tasks/cola/dev.jsonl" data.test="$tasks/cola/test.jsonl"
tune similarity sts part=encoder epochs=3 length=96 \
    data.train="$tasks/sts/en/train.jsonl" data.dev="$tasks/sts/en/dev.jsonl" data.test="$tasks/sts/en/test.jsonl"
tune zero_shot_tags pos part=encoder epochs=3 length=128 data.train.en="$tasks/pos/en/train.jsonl" \
    data.dev.en="$tasks/pos/en/dev.jsonl" "data.test={en: $tasks/pos/en/test.jsonl, de: $tasks/pos/de/test.jsonl, \
es: $tasks/pos/es/test.jsonl, fr: $tasks/pos/fr/test.jsonl, hi: $tasks/pos/hi/test.jsonl, ja: $tasks/pos/ja/test.jsonl}"
tune translate translate epochs=1 rows=32 length=64 target_length=64 data.train="$tasks/translate/en-de/train.jsonl" \
    data.dev="$tasks/translate/en-de/dev.jsonl" data.test="$tasks/translate/en-de/test.jsonl"
