"""What is done again after a change, and what is not."""


def test_an_edited_figure_redraws_figures_only(project):
    project.edit(
        "attrreg/figures/by_train_size.py", '"training samples', '"number of training samples'
    )
    assert set(project.planned_jobs()) == {"draw_figure", "all"}


def test_a_comment_changes_nothing(project):
    path = project.root / "attrreg" / "training" / "engine.py"
    path.write_text(path.read_text() + "\n# a remark\n")
    assert project.planned_jobs() == {}


def test_edited_evaluation_trains_nothing(project):
    project.edit("attrreg/evaluation/predict.py", "BATCH = 256", "BATCH = 128")
    jobs = project.planned_jobs()
    assert "train_shard" not in jobs
    assert jobs["evaluate_shard"] > 0


def test_an_edited_training_loop_trains_again(project):
    before = project.run_times()
    project.edit("attrreg/training/engine.py", "self.step += 1", "self.step += 1 + 0")
    answer = project.launch()
    assert answer.returncode == 0, answer.stdout
    after = project.run_times()
    assert before.keys() == after.keys()
    assert all(after[run] > before[run] for run in before)
    assert project.planned_jobs() == {}


def test_a_new_seed_trains_only_its_own_runs(project):
    before = project.run_times()
    project.edit("configs/tiny.yaml", "seeds: [0, 1]", "seeds: [0, 1, 2]")
    answer = project.launch()
    assert answer.returncode == 0, answer.stdout
    after = project.run_times()
    assert {run: after[run] for run in before} == before
    added = sorted(after.keys() - before.keys())
    assert len(added) == 3
    assert all("/s2/" in run for run in added)


def test_attribution_code_touches_guided_methods_only(project):
    before = project.run_times()
    project.edit("attrreg/attribution/layers.py", "CANCELLATION = 1e-2", "CANCELLATION = 2e-2")
    answer = project.snakemake("--until", "train_shard")
    assert answer.returncode == 0, answer.stdout
    after = project.run_times()
    again = {run.split("/")[3] for run in before if after[run] != before[run]}
    assert again == {"reldrop-block", "reldrop-block--swapped"}
