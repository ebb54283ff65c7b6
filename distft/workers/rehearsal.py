"""What the ranks of a model role would find out while they are set up, found out without a model and without ranks."""

from __future__ import annotations

from distft.models.adapters.adapt import add_adapters
from distft.models.families.family import family_at, find_family
from distft.models.finite import require_finite_files
from distft.models.packing import require_packable
from distft.models.reading_back import check_saved
from distft.models.routers import Routers
from distft.models.sequence_parallel import require_shareable
from distft.models.tokenizer import load_tokenizer
from distft.planning.model_folders import fetched_folder
from distft.workers.spec import RoleSpec, Start


def rehearse_model(spec: RoleSpec, start: Start, *, new_head: bool, exported: bool) -> None:
    """Tokenizer, architecture, names and sizes of the weights, whether they are numbers, adapters, and where it is
    ``exported`` what would be written: ``ModelWorker.setup`` and ``check_export`` on the meta device. Of a start
    that the run makes, and of a hub name whose weights are not on this machine, it is the config only: nobody waits for
    a download.
    Raises what the worker would.
    """
    load_tokenizer(start.path, trust_remote_code=start.trust_remote_code, chat_template=start.chat_template)
    folder = None if start.is_made else fetched_folder(start.path)
    name = family_at(spec.family, start.path, spec.model)
    family = find_family(name, spec.labels)
    if folder is None:
        model = family.empty(start.path, spec.model)
    else:
        loaded = family.load(start.path, spec.model, dropout=spec.dropout, new_head=new_head, on_meta=True)
        model = loaded.module.model
        require_finite_files(folder)
    if (size := spec.model.engine.sequence_parallel) > 1:
        require_shareable(model.config, size, spec.longest, f"models.{spec.role}")
    if spec.model.engine.packed:
        trusted = spec.model.trust_remote_code
        require_packable(model.config, name, f"models.{spec.role}", trusted=trusted)
    if spec.router_replay:
        Routers(model, f"models.{spec.role}")
    if exported:
        check_saved(model, start.path)
    if spec.model.peft is not None:
        add_adapters(model, spec.model.peft, dropout=spec.dropout, seed=spec.seed)
