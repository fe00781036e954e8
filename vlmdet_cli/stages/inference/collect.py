"""infer --collect: the answers of all shards as one file, in the order of the rows, once every row has its answer.

It asks no engine and needs no model: it may run on a machine that has neither. The file, its detections and its account
are those of an inference on one machine.
"""

import time

import msgspec

from vlmdet_cli.core.files import file_hash
from vlmdet_cli.core.locks import lock
from vlmdet_cli.engines.answers import AnswersFile
from vlmdet_cli.errors import UsageError
from vlmdet_cli.project import Project
from vlmdet_cli.stages.inference.answer_reading import reading_rules
from vlmdet_cli.stages.inference.infer import InferResult, Work, conclude
from vlmdet_cli.stages.inference.infer_inputs import answers_path, split_of, split_rows
from vlmdet_cli.stages.inference.infer_model import InferRequest, choose_results
from vlmdet_cli.stages.inference.infer_shards import Target, complete_shards


def collect(project: Project, request: InferRequest) -> InferResult:
    """Put the shards together that the request's answers file has.

    Raises ``DataError`` that names the rows and shards that are missing, before anything is written.
    """
    if request.images or request.shard or request.output:
        raise UsageError("--collect takes no pictures, no --output and no --shard", hint="It collects a whole split.")
    started = time.monotonic()
    split = split_of(project.config.infer, request)
    results = choose_results(project, request)
    if results.run:
        project = project.with_data_of(results.run)
    rows, categories = split_rows(project, split)
    target = Target(
        path=answers_path(results, request, project.config.infer.answers_name(split)),
        rows=rows,
        split=split,
        data=file_hash(project.subset(split)),
    )
    shards = complete_shards(target)
    # how answers are read is not the shards' matter
    meta = msgspec.structs.replace(shards.metas[1], dedupe=project.config.infer.dedupe)
    file = AnswersFile(target.path, meta)
    rules = reading_rules(file.meta, categories, project.config.eval.score_rule)
    with lock(file.path.parent, f".{file.path.name}.lock"):
        resumed = file.resume(target.rows)
        work = Work(started=started, resumed=resumed, shards=shards.count)
        return conclude(file, target.rows, shards.answers(), rules, work)
