"""Seeded fuzzing, time-boxed and no part of the tests: `make fuzz`, or `python -m tests.fuzz.run --help`.

A module of cases has a `NAME` and

    def run(rng: random.Random, folder: Path) -> None: ...

one seeded case: make an input in `folder`, give it to the code in this process. A DeployError is an answer and is caught
there; `AssertionError("believed ...")` says that something wrong was accepted, `AssertionError("lost ...")` that something of
the user's is gone; whatever else is raised is a traceback. A case that takes longer than `pool.LIMIT_S` is a hang, one in
which the process dies is a crash. `prepare()`, where a module has one, is called before its first case and is not timed.

A module of processes (races, kills, full_disk) has a `NAME` and

    def campaign(seed: int, first: int, count: int, work: Path) -> Iterator[Outcome]: ...

A case is (target, number) and nothing else: any can be repeated with `--case target:number`.
"""
