#!/bin/bash
# Fine-tune what one arm leaves: bash tasks.sh ARM SEED, with $MEGAS2S_DEV_DATA naming the data and arms.sh done for the seed.
set -eu
arm=$1 seed=$2
export OMP_NUM_THREADS=1
tasks=$MEGAS2S_DEV_DATA/tasks
case $arm in
    a) weights=two_stage_$seed/mlm ;;
    b | c) weights=scratch_$seed/seq2seq ;;
    d) weights=scratch_$seed/mlm ;;
    g) weights=frozen_$seed/seq2seq ;;
    h | h_encoder) weights=two_stage_$seed/seq2seq ;;
esac
common=(init="runs/recipes/$weights" seed="$seed" "engine={name: local}" precision=fp32 dropout=0.1 log.every=50)
common+=(log.evaluate_every=0 schedule.lr=5.0e-4 log.tensorboard=false trial_step=false)

tune() { # recipe, folder of the run, overrides
    python launch/finetune.py "launch/finetuning/$1.yaml" run="runs/recipes/tasks/$2_${arm}_$seed" "${common[@]}" "${@:3}"
}

case $arm in
    b | g | h)
        tune translate translate epochs=1 rows=32 length=64 target_length=64 \
            data.train="$tasks/translate/en-de/train.jsonl" data.dev="$tasks/translate/en-de/dev.jsonl" \
            data.test="$tasks/translate/en-de/test.jsonl"
        ;;
    *)
        tune zero_shot_tags pos part=encoder epochs=3 length=128 data.train.en="$tasks/pos/en/train.jsonl" \
            data.dev.en="$tasks/pos/en/dev.jsonl" "data.test={en: $tasks/pos/en/test.jsonl, de: $tasks/pos/de/test.jsonl, \
es: $tasks/pos/es/test.jsonl, fr: $tasks/pos/fr/test.jsonl, hi: $tasks/pos/hi/test.jsonl, ja: $tasks/pos/ja/test.jsonl}"
        tune classify topic part=encoder epochs=5 length=128 "data.train={en: $tasks/topic/en/train.jsonl}" \
            "data.dev={en: $tasks/topic/en/dev.jsonl}" "data.test={en: $tasks/topic/en/test.jsonl, \
fr: $tasks/topic/fr/test.jsonl, sw: $tasks/topic/sw/test.jsonl}"
        ;;
esac
