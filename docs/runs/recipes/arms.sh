#!/bin/bash
# Train all arms of one seed, two processes of one thread at a time: bash arms.sh SEED
set -eu
seed=$1
export OMP_NUM_THREADS=1
here=docs/runs/recipes
(
    python launch/pretrain.py $here/two_stage.yaml run=runs/recipes/two_stage_$seed seed=$seed
    python launch/pretrain.py $here/frozen.yaml run=runs/recipes/frozen_$seed seed=$seed \
        stages.seq2seq.init=runs/recipes/two_stage_$seed/mlm/weights
) &
python launch/pretrain.py $here/scratch.yaml run=runs/recipes/scratch_$seed seed=$seed
wait $!
