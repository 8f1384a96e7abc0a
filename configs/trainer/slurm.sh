#!/bin/bash
# Two machines of four GPUs each:  sbatch configs/trainer/slurm.sh configs/ucf101/mv.yaml --run_dir runs/ucf101/mv_8
# 90 seconds before its time is up the job saves the step it is in, and goes back into the queue, from where it continues.
# So it does where the cluster takes the machines back (preemption). `scancel` ends it: it saves, and is gone.
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
srun lightning fit --config "$1" --config configs/trainer/multi_node.yaml --config configs/trainer/bf16_mixed.yaml "${@:2}"
