#!/bin/bash
# Two machines of four GPUs each:  sbatch configs/trainer/slurm.sh configs/ucf101/mv.yaml
# 90 seconds before its time is up, or when the cluster takes the machines back, the job saves its step and goes back into
# the queue, from which it continues. `scancel` ends it for good.
#SBATCH --job-name=streamkd
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gres=gpu:4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=SIGUSR1@90
#SBATCH --requeue
#SBATCH --open-mode=append

source .venv/bin/activate
srun lightning fit --config "$1" --config configs/trainer/multi_node.yaml --trainer.num_nodes "$SLURM_NNODES" \
    --config configs/trainer/bf16_mixed.yaml "${@:2}"
