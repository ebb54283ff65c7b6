#!/usr/bin/env bash

# slurm-a100
mkdir -p -- /home/me/runs/ppo-tiny/logs &&
sbatch --parsable --job-name=ppo-tiny --chdir=/home/me --output=/home/me/runs/ppo-tiny/logs/slurm-%j.out --open-mode=append --nodes=2 --ntasks-per-node=1 --cpus-per-task=96 --exclusive --mem=0 --gres=gpu:a100:8 --partition=gpu --time=1-00:00:00 --requeue --signal=USR1@120 --export=HF_HOME,PATH \
    /opt/distft/slurm/train.sbatch --python /opt/env/bin/python --run-dir /home/me/runs/ppo-tiny ppo-tiny --cluster slurm-a100 train.steps=5 'data.train.0.path=/data/my file'"'"'s.jsonl'

# slurm-cpu
mkdir -p -- /home/me/runs/ppo-tiny/logs &&
sbatch --parsable --job-name=ppo-tiny --chdir=/home/me --output=/home/me/runs/ppo-tiny/logs/slurm-%j.out --open-mode=append --nodes=2 --ntasks-per-node=1 --cpus-per-task=2 --mem=8192M --time=01:00:00 --requeue --signal=USR1@120 --export=HF_HOME,PATH \
    /opt/distft/slurm/train.sbatch --python /opt/env/bin/python --run-dir /home/me/runs/ppo-tiny ppo-tiny --cluster slurm-cpu train.steps=5 'data.train.0.path=/data/my file'"'"'s.jsonl'

# slurm-h100
mkdir -p -- /home/me/runs/ppo-tiny/logs &&
sbatch --parsable --job-name=ppo-tiny --chdir=/home/me --output=/home/me/runs/ppo-tiny/logs/slurm-%j.out --open-mode=append --nodes=4 --ntasks-per-node=1 --cpus-per-task=96 --exclusive --mem=0 --gpus-per-node=h100:8 --partition=gpu --time=1-00:00:00 --requeue --signal=USR1@120 --export=HF_HOME,PATH \
    /opt/distft/slurm/train.sbatch --python /opt/env/bin/python --run-dir /home/me/runs/ppo-tiny ppo-tiny --cluster slurm-h100 train.steps=5 'data.train.0.path=/data/my file'"'"'s.jsonl'

# everything
mkdir -p -- /home/me/runs/ppo-tiny/logs &&
sbatch --parsable --job-name=ppo-tiny --chdir=/home/me --output=/home/me/runs/ppo-tiny/logs/slurm-%j.out --open-mode=append --nodes=3 --ntasks-per-node=1 --cpus-per-task=64 --exclusive --mem=0 --gres=gpu:a100:4 --partition=gpu,gpu-long --account=proj.42 --qos=high '--constraint=a100&(ib|roce)' --reservation=maint_7 --time=2-12:30:00 --requeue --signal=USR1@120 --export=HF_HOME,PATH \
    /opt/distft/slurm/train.sbatch --module cuda/12.8 --module gcc/13 --needs '/opt/env with space/bin/python' --python '/opt/env with space/bin/python' --run-dir /home/me/runs/ppo-tiny ppo-tiny --cluster everything train.steps=5 'data.train.0.path=/data/my file'"'"'s.jsonl'

# everything-pyxis
mkdir -p -- /home/me/runs/ppo-tiny/logs &&
sbatch --parsable --job-name=ppo-tiny --chdir=/home/me --output=/home/me/runs/ppo-tiny/logs/slurm-%j.out --open-mode=append --nodes=3 --ntasks-per-node=1 --cpus-per-task=64 --exclusive --mem=0 --gres=gpu:a100:4 --partition=gpu,gpu-long --account=proj.42 --qos=high '--constraint=a100&(ib|roce)' --reservation=maint_7 --time=2-12:30:00 --requeue --signal=USR1@120 --export=HF_HOME,PATH \
    /opt/distft/slurm/train.sbatch --module cuda/12.8 --module gcc/13 --srun --container-image=docker://registry.example/distft:1 --srun --container-mounts=/data:/data,/home/me/runs/ppo-tiny:/home/me/runs/ppo-tiny,/home/me:/home/me,/local:/local --srun --container-workdir=/home/me --python python --run-dir /home/me/runs/ppo-tiny ppo-tiny --cluster everything train.steps=5 'data.train.0.path=/data/my file'"'"'s.jsonl'

# everything-apptainer
mkdir -p -- /home/me/runs/ppo-tiny/logs &&
sbatch --parsable --job-name=ppo-tiny --chdir=/home/me --output=/home/me/runs/ppo-tiny/logs/slurm-%j.out --open-mode=append --nodes=3 --ntasks-per-node=1 --cpus-per-task=64 --exclusive --mem=0 --gres=gpu:a100:4 --partition=gpu,gpu-long --account=proj.42 --qos=high '--constraint=a100&(ib|roce)' --reservation=maint_7 --time=2-12:30:00 --requeue --signal=USR1@120 --export=HF_HOME,PATH \
    /opt/distft/slurm/train.sbatch --module cuda/12.8 --module gcc/13 --needs /images/distft.sif --within apptainer --within exec --within --nv --within --pwd --within /home/me --within --bind --within /data:/data:ro --within --bind --within /home/me/runs/ppo-tiny:/home/me/runs/ppo-tiny --within --bind --within /home/me:/home/me --within --bind --within /local:/local --within /images/distft.sif --python python --run-dir /home/me/runs/ppo-tiny ppo-tiny --cluster everything train.steps=5 'data.train.0.path=/data/my file'"'"'s.jsonl'
