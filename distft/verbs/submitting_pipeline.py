"""What ``distft submit`` does with a pipeline: on Slurm a job a stage, each after those whose results it starts from;
on a Ray cluster one job, a stage after the other."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from distft.common.errors import DistftError, UserError
from distft.config.pipeline import EvalStage, Pipeline, Stage, load_pipeline
from distft.launch.jobs.cancel import stop
from distft.launch.jobs.former_jobs import former_jobs
from distft.launch.pipeline import Ready, finished, ready
from distft.launch.preflight.checks import check_output_dir
from distft.verbs.eval_stage import eval_words
from distft.verbs.recipe import clusters_of
from distft.verbs.submitting import require_slurm_jobs, submit_to_ray

if TYPE_CHECKING:
    from distft.launch.slurm.submission import Submission

_ONE_JOB = ("array", "sweep", "follow")  # options that mean a single job


def submit_pipeline(arguments: argparse.Namespace) -> int:
    """Submits the stages that are not finished. All are looked at first, and nothing is submitted where one of them is
    refused. Raises UserError, EnvironmentFallsShort."""
    pipeline = load_pipeline(arguments.recipe, arguments.overrides)
    return (_submit_ray if arguments.target == "ray" else _submit_slurm)(arguments, pipeline)


def _submit_ray(arguments: argparse.Namespace, pipeline: Pipeline) -> int:
    from distft.launch.on_ray.submission import packed_pipeline

    if arguments.stage_cluster:
        where, hint = f"--stage-cluster {arguments.stage_cluster[0]}", "leave it out: --cluster C is of all stages"
        raise UserError("the stages run one after the other on one Ray cluster", where=where, hint=hint)
    root = Path(pipeline.output_dir)
    check_output_dir(root)
    if not arguments.dry_run and len(finished(pipeline)) == len(pipeline.stages):
        print(json.dumps({"run_dir": str(root.absolute()), "state": "finished"}) if arguments.json
              else f"{pipeline.name}: already finished, its runs are in {root.absolute()}")  # fmt: skip
        return 0
    package = packed_pipeline(pipeline, arguments.recipe, arguments.overrides)
    return submit_to_ray(arguments, package, _folders(pipeline))


def _submit_slurm(arguments: argparse.Namespace, pipeline: Pipeline) -> int:
    _refuse_options(arguments, pipeline)
    clusters = clusters_of([stage.name for stage in pipeline.stages], arguments.stage_cluster)
    found = ready(pipeline, arguments.cluster, clusters=clusters, to_start=False)
    prepared = {stage.name: _prepared(stage, found, clusters, arguments) for stage in found.left}
    if arguments.dry_run:
        _show(found, prepared, as_json=arguments.json)
    elif arguments.json:
        print(json.dumps([_answer(one, stage) for stage, one in _submitted(found, prepared, arguments)]))
    else:
        for stage, one in _submitted(found, prepared, arguments):
            print(one.job_id, flush=True)
            print(f"distft: submitted stage {stage.name} as Slurm job {one.job_id}{_after(stage, found)}",
                  file=sys.stderr, flush=True)  # fmt: skip
        names = " ".join(shlex.quote(str(pipeline.folder(stage))) for stage in pipeline.stages)
        print(f"  distft status {names}", file=sys.stderr)
    return 0


def _refuse_options(arguments: argparse.Namespace, pipeline: Pipeline) -> None:
    first = shlex.join(pipeline.trained[0].words) if pipeline.trained else "RECIPE"
    if arguments.cluster is None:
        raise UserError("needs a cluster file", where="submit slurm", hint="--cluster slurm-cpu, say")
    for option in _ONE_JOB:
        if getattr(arguments, option):
            hint = f"for a stage: distft submit slurm {first} --cluster {arguments.cluster} --{option} ..."
            raise UserError("is an option of single jobs", where=f"--{option}", hint=hint)


def _prepared(
    stage: Stage | EvalStage, found: Ready, clusters: dict[str, str], arguments: argparse.Namespace
) -> Submission:
    from distft.launch.slurm import submission as slurm

    cluster, after = clusters.get(stage.name, arguments.cluster), tuple(arguments.after)
    options = tuple(arguments.slurm_options)
    if isinstance(stage, EvalStage):
        program = ("-m", "distft.cli", *eval_words(found.pipeline, stage))
        wish = slurm.Wish("", cluster=cluster, after=after, options=options)
        return slurm.prepare_program(stage.title, found.pipeline.folder(stage), program, wish)
    return slurm.prepare(slurm.Wish(
        stage.source, stage.overrides, cluster, after, options=options,
        waits=not found.finished.issuperset(stage.needs),
    ))  # fmt: skip


def _submitted(
    found: Ready, prepared: dict[str, Submission], arguments: argparse.Namespace
) -> list[tuple[Stage | EvalStage, Submission]]:
    """The submissions, in order. Raises UserError; where some have been submitted before, it says which."""
    from distft.launch.slurm import submission as slurm

    # A Ray job of all stages is the pipeline's own, and no stage's.
    whole = former_jobs(_folders(found.pipeline)[:1], replace=arguments.replace)
    require_slurm_jobs(job for jobs in whole.values() for job in jobs)
    former = {
        stage.name: former_jobs(prepared[stage.name].run_dirs, replace=arguments.replace, after=arguments.after)
        for stage in found.left
    }
    done: list[tuple[Stage | EvalStage, Submission]] = []
    jobs: dict[str, str] = {}
    for stage in found.left:
        ended = dict.fromkeys(job.record.job_id for each in former[stage.name].values() for job in each)
        after = [jobs[name] for name in stage.needs if name in jobs]
        try:
            one = slurm.submit(prepared[stage.name], once_ended=tuple(ended), after=after)
        except DistftError as error:
            for earlier, _ in done:
                print(f"distft: stage {earlier.name} is submitted already: distft cancel "
                      f"{shlex.quote(str(found.pipeline.folder(earlier)))}", file=sys.stderr)  # fmt: skip
            raise error
        for run_dir, each in former[stage.name].items():
            print(stop(run_dir, each), file=sys.stderr)
        jobs[stage.name] = str(one.job_id)
        done.append((stage, one))
    return done


def _folders(pipeline: Pipeline) -> list[Path]:
    """The pipeline's own folder, and those of its stages."""
    return [Path(pipeline.output_dir).absolute(), *(pipeline.folder(stage).absolute() for stage in pipeline.stages)]


def _show(found: Ready, prepared: dict[str, Submission], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([_answer(prepared[stage.name], stage) for stage in found.left]))
        return
    for stage in found.left:
        print(f"# stage {stage.name}{_after(stage, found)}\n{prepared[stage.name].shell}")


def _after(stage: Stage | EvalStage, found: Ready) -> str:
    waits = [name for name in stage.needs if name not in found.finished]
    return f", once {' and '.join(waits)} ended well" if waits else ""


def _answer(one: Submission, stage: Stage | EvalStage) -> dict[str, object]:
    return {
        "stage": stage.name, "job_id": one.job_id, "after": list(stage.needs), "command": list(one.command),
        "run_dir": str(one.run_dirs[0]), "warnings": list(one.warnings),
    }  # fmt: skip
