"""Studies and the sweep on Fine-tune, without a model or a worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streamlit.testing.v1 import AppTest

from ema_core.defenses.registry import find
from ema_core.jobs import launch, queue, studies
from ema_core.runs import Probes, RunDirectory, RunSpec, Status, StudySpec, recipe
from pages.widgets.chrome import plain
from tests.pages.evaluated_home import open_page, said
from tests.training.tiny import add_tiny, tiny_spec

ALONE = {"samples": 0, "suites": ["general"], "curve": False}


def tiny_study(home: Path, **changes: Any) -> str:
    add_tiny(home)
    spec = tiny_spec()
    value = {"name": "Try **it**", "datasets": ["tiny"], "safe_pool": "tiny-safe", "recipe": spec.recipe, "device": "cpu"}
    return studies.start(StudySpec(**{**value, "defenses": ["none", "kl=[0.1, 1]"], "evaluation": ALONE, **changes}))


def runs_of(study_id: str) -> list[RunDirectory]:
    return [RunDirectory.open(str(cell.run)) for cell in studies.recorded_cells(study_id)]


def test_without_a_study_the_page_says_how_to_make_one() -> None:
    app = open_page("studies")
    assert "No study yet" in said(app) and "ema study run" in app.main.code[0].value


def test_a_study_shows_its_progress_its_cells_and_why_one_failed(home: Path) -> None:
    study_id = tiny_study(home)
    first, second, third = runs_of(study_id)
    second.update(status=Status.FAILED, error="The disk *is* full.", hint="Free some space.")
    launch.request(third, "pause")
    app = open_page("studies")
    assert [element.value for element in app.main.subheader] == [plain("Try **it**")], "a name is text"
    (bar,) = [element.proto.text for element in app.main.get("progress")]
    assert bar.startswith("0 of 3 done · 1 failed · 2 left: 1 waiting, 1 at rest · about ")
    cells = app.main.dataframe[0].value
    assert list(cells["State"]) == ["waiting", "failed", "at rest"] and list(cells["Defense"]) == ["none", "kl=0.1", "kl=1"]
    assert first.id in cells["Curves"][0] and "disk" in cells["Why"][1]
    assert "kl=0.1, tiny, seed 0: training failed. The disk *is* full. Free some space." in said(app)


def test_waiting_cells_are_cancelled_and_queued_again(home: Path) -> None:
    study_id = tiny_study(home)
    app = open_page("studies", study=study_id)
    app.button(key="study-cancel").click().run()
    assert {run.state().status for run in runs_of(study_id)} == {Status.PAUSED}
    assert not [job for job in queue.jobs() if job.status == "queued"]
    app.button(key="study-go-on").click().run()
    assert not app.exception and {run.state().status for run in runs_of(study_id)} == {Status.QUEUED}
    assert [job.kind for job in queue.jobs() if job.status == "queued"] == ["train", "train", "train", "evaluate"]


def test_the_address_names_a_study_and_an_unknown_one_is_said(home: Path) -> None:
    one, other = tiny_study(home), tiny_study(home, name="other")
    assert "other" in [element.value for element in open_page("studies", study=other).main.subheader]
    app = open_page("studies", study="nonsense")
    assert 'no study "nonsense"' in said(app) and one != other


def test_fine_tune_shows_the_run_at_work_and_folds_a_long_queue(home: Path) -> None:
    study_id = tiny_study(home, seeds=[0, 1])
    at_work, *_, last = runs_of(study_id)
    (job,) = [job for job in queue.jobs() if job.runs == [at_work.id]]
    queue.change(job.id, status="running", activity="step 1 of 4")
    app = open_page("fine_tune", part="Runs")
    chosen = app.multiselect(key="runs-picker").value
    assert chosen[0] == at_work.id and last.id in chosen, "the run at work first, whatever is newer"
    (more,) = [block for block in app.main.expander if block.label.endswith("in the queue")]
    assert more.label == "2 more in the queue" and len(more.button) == 2 * len(("Up", "Down", "Run next", "Cancel"))
    assert "Train kl=0.1, tiny, seed 0" in said(app)


def sweep(app: AppTest) -> str:
    return next(text for text in said(app).splitlines() if " runs**" in text)


def test_a_sweep_is_three_clicks_and_goes_to_its_study() -> None:
    app = open_page("fine_tune")
    app.number_input(key="form-steps").set_value(4).run()
    app.button(key="sweep").click().run()
    assert sweep(app).startswith(f"**{1 + len(find('kl').strength_info.grid)} runs**, 1 of them undefended. About")
    app.multiselect(key="sweep-strengths-kl").set_value([0.1, 1.0]).run()
    app.slider(key="sweep-seeds").set_value(2).run()
    app.number_input(key="sweep-samples-demo").set_value(0).run()
    assert sweep(app).startswith("**6 runs**, 2 of them undefended")
    cells = app.main.dataframe[0].value
    assert list(cells["Defense"]) == ["none", "none", "kl=0.1", "kl=1", "kl=0.1", "kl=1"] and set(cells["What happens"]) == {"new"}
    app.button(key="queue-sweep").click().run()
    assert not app.exception
    (study_id,) = studies.study_ids()
    specs = [run.spec for run in runs_of(study_id)]
    assert [(spec.defense_label, spec.seed) for spec in specs] == [
        ("none", 0), ("none", 1), ("kl=0.1", 0), ("kl=1", 0), ("kl=0.1", 1), ("kl=1", 1),
    ]  # fmt: skip
    assert {spec.recipe.steps for spec in specs} == {4} and studies.read_spec(study_id).evaluation.samples == 0
    assert app.query_params["study"] in (study_id, [study_id])


def test_a_sweep_reuses_what_is_there_and_takes_several_defenses_and_data_sets() -> None:
    app = open_page("fine_tune")
    app.number_input(key="form-steps").set_value(4).run()
    launch.launch_run(RunSpec(recipe=recipe("demo", steps=4), probes=Probes()))
    app.multiselect(key="form-defenses").set_value(["kl", "ldifs"]).run()
    app.selectbox(key="option-kl-tokens").set_value("response").run()
    app.button(key="sweep").click().run()
    app.multiselect(key="sweep-strengths-kl").set_value([0.1]).run()
    app.multiselect(key="sweep-strengths-ldifs").set_value([1.0]).run()
    app.multiselect(key="sweep-datasets").set_value(["risky-finance", "extreme-sports"]).run()
    assert sweep(app).startswith("**6 runs**, 2 of them undefended, 1 there already. About")
    cells = app.main.dataframe[0].value
    assert list(cells["What happens"]).count("new") == 5 and cells["What happens"][0] == "reused (queued)"
    assert {"kl=0.1:tokens=response", "ldifs=1"} <= {label.split(":normalise")[0] for label in cells["Defense"]}


def test_a_sweep_that_cannot_be_run_says_why_and_cannot_be_queued() -> None:
    app = open_page("fine_tune")
    app.button(key="sweep").click().run()
    app.multiselect(key="sweep-strengths-kl").set_value([]).run()
    assert "No strength is chosen." in said(app) and app.button(key="queue-sweep").disabled
    app.multiselect(key="sweep-defenses").set_value([]).run()
    assert "No defense is chosen." in said(app) and app.button(key="queue-sweep").disabled
