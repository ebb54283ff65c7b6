"""What is looked at before the first stage of a pipeline starts: whether each of them can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from distft.common.errors import UserError
from distft.config.pipeline import EvalStage, Pipeline, Stage
from distft.config.recipe import Recipe
from distft.launch.kept_evaluation import found_before
from distft.launch.preflight.checks import check_memory, check_output_dir, preflight
from distft.launch.preflight.evaluations import check_eval_stage
from distft.launch.prepare import planned
from distft.launch.run_folder import is_finished, require_same_run
from distft.planning.plan import Plan


@dataclass(frozen=True)
class Ready:
    """A pipeline whose stages can all start, with the plans of those that are runs; ``finished``: those that have ended
    well."""

    pipeline: Pipeline
    plans: Mapping[str, Plan]
    finished: frozenset[str]

    @property
    def left(self) -> list[Stage | EvalStage]:
        """The stages that are still to be done."""
        return [stage for stage in self.pipeline.stages if stage.name not in self.finished]

    def recipe(self, stage: Stage) -> Recipe:
        """The stage's recipe as far as it can be looked at now: with the models that it starts from, or with others
        of the same sizes where these are still to be trained."""
        return stage.recipe if self.finished.issuperset(stage.needs) else stage.shaped


def ready(
    pipeline: Pipeline,
    cluster: str,
    *,
    clusters: Mapping[str, str] | None = None,
    to_start: bool = True,
    option: str = "output_dir=",
) -> Ready:
    """Looks at every stage: it fits on its cluster (``clusters`` by stage, else ``cluster``), its models and files are
    there, and its folder holds no other run. ``option`` is how the folder is said. Nothing is started or written;
    ``to_start`` False: nothing will be, from here.

    Raises UserError or EnvironmentFallsShort for the first thing that is wrong.
    """
    plans = {stage.name: planned(stage.shaped, (clusters or {}).get(stage.name, cluster)) for stage in pipeline.trained}
    for plan in plans.values():
        check_memory(plan)
    if to_start:
        check_output_dir(Path(pipeline.output_dir), where=option.rstrip("= "), example=f"{option}FOLDER")
    found = Ready(pipeline, plans, finished(pipeline))
    for stage in found.left:
        if isinstance(stage, EvalStage):
            check_eval_stage(stage)
        else:
            preflight(found.recipe(stage), plans[stage.name], to_start=to_start)
    return found


def finished(pipeline: Pipeline) -> frozenset[str]:
    """The stages that have ended well. Raises UserError where the folder of one holds another run, and where one is
    finished that started from what is to be trained anew: else a new model would stand beside an old result."""
    for stage in pipeline.trained:
        if stage.recipe.checkpoint.resume != "never":
            require_same_run(stage.recipe, pipeline.folder(stage))
    done = frozenset(stage.name for stage in pipeline.trained if _is_done(pipeline, stage))
    for stage in pipeline.trained:
        again = [name for name in stage.needs if name not in done]
        if stage.name in done and again:
            where = pipeline.folder(stage)
            raise UserError(
                f"stage {stage.name} is finished, but started from stage {again[0]}, which is to be trained anew",
                where=str(where), hint=f"move {where} away, or give another output_dir",
            )  # fmt: skip
    judged = (stage for stage in pipeline.stages if isinstance(stage, EvalStage) and done.issuperset(stage.needs))
    return done | {stage.name for stage in judged if found_before(pipeline.folder(stage), stage.keys.asked())}


def _is_done(pipeline: Pipeline, stage: Stage) -> bool:
    return stage.recipe.checkpoint.resume != "never" and is_finished(stage.recipe, pipeline.folder(stage))
