#!/bin/bash
# A run on several machines: sbatch examples/slurm.sh imagenet64-ect-s --data FILE --out FOLDER
# It goes on by itself after its time limit, a preemption, or the loss of a machine.
#SBATCH --job-name=fewstep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
# The run stops at this signal, 120 s before its time is over. A preemption sends it too.
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
trap : TERM # of the script: it waits for srun

# Where rank 0 listens: the first machine, at a port of this job's own.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
export MASTER_ADDR MASTER_PORT

srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" fewstep train "$@" --resume
code=$?

# 75: stopped and saved. Other codes are mistakes and losses, which a person should see.
if [ "$code" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
