"""Command lines of bad input and a regular expression that the message of each one matches.

What is given beside a line (`BASE` in the test) is left out where the line gives it itself. `LONG`
stands for 5,000 characters, FILE for a text file, DIR for an empty folder.
"""

from __future__ import annotations

from collections.abc import Sequence

Table = Sequence[tuple[str, str]]  # (command line, regular expression)

DELETED: Table = [
    *(
        (f"~{key}", rf"^{key}: missing; leave ~{key} out")
        for key in (
            *("seed", "split", "track", "objective", "mode", "backfill", "observe"),
            *("event_order", "baselines", "reference", "runs", "cache", "rerun"),
            "update_references",
        )
    ),
    ("~ship", "^update_references: missing"),
    ("~sweep", "'sweep' does not exist"),
    ("~solver", "Could not delete 'solver'"),
    ("+solver=sjf ~solver", r"^solver: missing; type \+solver=NAME, one of a2c, "),
    ("~dataset", "^dataset: missing; choose one of file, "),
    ("~budget", "^budget: missing; choose one of default, long, quick"),
    ("~tracking", "^tracking: missing; choose one of local, off, server"),
    ("~seed=5", "seed"),
    ("~seed=0", "^seed: missing"),
    ("~nothere", "'nothere' does not exist"),
    *(
        (f"~reference.{key}", rf"^reference\.{key}: missing; options are seconds, shipped, solver")
        for key in ("seconds", "shipped", "solver")
    ),
    ("~budget._target_", r"^budget: .* names no class in _target_"),
    ("~isolate", "^isolate: missing"),
    ("isolate=1", "^isolate: true or false is needed, got 1"),
    ("~dataset._target_", r"^dataset: .* names no class in _target_"),
    ("~solver._target_", r"^solver: .* names no class in _target_"),
    ("~tracking._target_", r"^tracking: .* names no class in _target_"),
    ("~reference.solver._target_", r"^reference\.solver: .* names no class in _target_"),
    ("~dataset.agents", r"^dataset\.agents: missing; Cluster needs it"),
]

NULL: Table = [
    *(
        (f"{group}=null", rf"^{group}: a name is needed, got None; choose one of ")
        for group in ("budget", "dataset", "tracking", "solver", "logs")
    ),
    *(
        (f"{group}={value}", rf"^{group}: a name is needed, got .*; choose one of ")
        for group in ("budget", "dataset", "tracking", "logs")
        for value in ("5", "true", "[1]", "[a,b]", "1.5")
    ),
    ("+tuning=5", r"^tuning: a name is needed, got 5; choose one of ppo"),
    ("hydra/launcher=null", r"^hydra/launcher=null: the name of a file of Hydra's group"),
    ("solver@reference.solver=null", r"^solver@reference\.solver: a name is needed, got None"),
    *((f"{key}=null", rf"^{key}: an? (mapping|string|list) is needed, got None") for key in (
        "reference", "runs", "baselines",
    )),
    *((f"{key}=null", rf"^{key}: None must be one of ") for key in (
        *("split", "track", "objective", "mode", "backfill", "observe", "event_order"),
    )),
    *((f"{key}=null", rf"^{key}: true or false is needed, got None") for key in (
        *("rerun", "update_references", "reference.shipped"),
    )),
    ("seed=null", "^seed: an integer is needed, got None"),
    ("reference.solver=null", r"^reference\.solver: a mapping is needed, got None"),
    ("reference.seconds=null", r"^reference\.seconds: a number is needed, got None"),
    ("budget.seconds=null", r"^budget\.seconds: a number is needed, got None"),
    ("dataset.name=null", r"^dataset\.name: a string is needed, got None"),
    ("dataset.test=null", r"^dataset\.test: an integer is needed, got None"),
    ("solver.skip=null", r"^solver\.skip: true or false is needed, got None"),
    ("budget._target_=null", r"^budget: .* names no class in _target_"),
]  # fmt: skip

TYPES: Table = [
    *((f"seed={value}", "^seed: an integer is needed, got ") for value in (
        *("1.5", "true", "'\"1\"'", "1e400", "1e3", "[0,1]", "nan", "inf", "''", "{a:1}", "one"),
        "0x1",
    )),
    ("-m seed=[0,1]", r"^seed: an integer is needed, got \[0, 1\]"),
    ("-m seed=0,x", "^seed: an integer is needed, got 'x'"),
    ("seed=-3", "^seed: must not be negative, got -3"),
    ("seed=99999999999999999999999999", "^seed: must be at most 9223372036854775807"),
    ("seed=", "^seed: an integer is needed, got ''"),
    ("seed='???'", r"^seed: missing; set seed=VALUE"),
    ("dataset.name='???'", r"^dataset\.name: missing; set dataset\.name=VALUE"),
    ("seed='${nothere}'", "^seed: Interpolation key 'nothere' not found"),
    ("seed='${oc.env:NOT_THERE_AT_ALL}'", "^seed: .*NOT_THERE_AT_ALL"),
    ("seed='${seed}'", "^seed: "),
    ("seed='${nothere:1}'", "^seed: .*nothere"),
    ("runs='${nothere}'", "Interpolation key 'nothere' not found"),
    *((f"rerun={value}", "^rerun: true or false is needed, got ") for value in ("1", "yes", "[]")),
    ("update_references=1", "^update_references: true or false is needed, got 1"),
    *((f"{key}={value}", rf"^{key}: .* must be one of ") for key, value in (
        *(("split", "[test]"), ("split", "Test"), ("split", "1"), ("split", "tset")),
        ("split", "''"),
        *(("track", "[online]"), ("track", "{a:1}"), ("track", "onlin"), ("track", "true")),
        *(("objective", "[makespan]"), ("objective", "makspan"), ("objective", "1")),
        *(("mode", "[fit]"), ("mode", "comit"), ("backfill", "true"), ("backfill", "hard")),
        *(("observe", "[all]"), ("observe", "everything"), ("event_order", "[batched]")),
        *(("event_order", "random"), ("event_order", "5")),
    )),
    ("objective=makspan", "Did you mean makespan[?]"),
    ("events=randomly", "event_order: 'randomly' must be one of batched, sequential"),
    *((f"reference.seconds={value}", rf"^reference\.seconds: {rule}") for value, rule in (
        ("nan", "a finite number is needed, got nan"),
        ("inf", "a finite number is needed, got inf"),
        ("-1", "must not be negative, got -1"),
        ("abc", "a number is needed, got 'abc'"),
        ("true", "a number is needed, got True"),
        ("[1]", r"a number is needed, got \[1\]"),
        ("1e400", "a finite number is needed, got inf"),
    )),
    ("reference=5", "^reference: a mapping is needed, got 5"),
    ("reference=[1]", "reference"),
    ("reference.shipped=5", r"^reference\.shipped: true or false is needed, got 5"),
    ("+reference.x=5", r"^reference\.x: unknown\. Options: seconds, shipped, solver"),
    ("+reference.second=5", r"^reference\.second: unknown\. Did you mean seconds"),
    ("reference.solver=sjf", r"^reference\.solver: a mapping is needed, got 'sjf'"),
    ("solver@reference.solver=sjf", r"^reference\.solver: SJF is no Solver"),
    ("solver@reference.solver=nothere", "nothere: unknown"),
    ("reference.solver._target_=nothere", "nothere cannot be imported"),
    ("+reference.solver.nothere=1", r"^reference\.solver\.nothere: unknown"),
    ("cache=5", "^cache: a string or null is needed, got 5"),
    ("cache=true", "^cache: a string or null is needed, got True"),
    ("cache=[a]", r"^cache: a string or null is needed, got \['a'\]"),
    ("cache=''", "^cache: a string or null is needed, got ''"),
    ("runs=5", "^runs: a string is needed, got 5"),
    ("runs=[a]", r"^runs: a string is needed, got \['a'\]"),
    ("runs=''", "^runs: must not be empty"),
    ("runs=' '", "^runs: (value|must)"),
    *((f"budget.seconds={value}", r"^budget\.seconds: .*number is needed, got ") for value in (
        *("nan", "inf", "-1", "0", "[1,2]", "1e400", "soon", "true", "{a:1}", "''"),
    )),
    *((f"budget.decisions={value}", r"^budget\.decisions: an integer is needed") for value in (
        *("1.5", "1e6", "true", "abc"),
    )),
    ("budget.decisions=0", r"^budget\.decisions: a positive number is needed, got 0"),
    ("budget.threads=0", r"^budget\.threads: a positive number is needed, got 0"),
    ("budget.threads=true", r"^budget\.threads: an integer is needed, got True"),
    ("budget.decisions=99999999999999999999", r"^budget\.decisions: must be at most"),
    ("+budget.x=1", r"^budget\.x: unknown\. Budget takes decisions, seconds, threads"),
    ("solver.skip=1", r"^solver\.skip: true or false is needed, got 1"),
    ("solver.skip=[true]", r"^solver\.skip: true or false is needed, got \[True\]"),
]  # fmt: skip

NAMES: Table = [
    ("+solver=sjff", r"^solver=sjff: unknown\. Did you mean sjf"),
    ("+solver=", "^solver=: unknown"),
    ("+solver=../config", r"^solver: value '\.\./config': must consist of letters"),
    ("+solver=/etc/passwd", "^solver: value '/etc/passwd': must consist of letters"),
    ("dataset=../config", r"^dataset: value '\.\./config': must consist of letters"),
    ("dataset=smal", "Did you mean small[?]"),
    ("dataset=", "^dataset=: unknown"),
    ("budget=quik", "Did you mean quick[?]"),
    ("tracking=of", "Did you mean off[?]"),
    ("logs=nothere", "^logs=nothere: unknown"),
    ("-m +tuning=nothere +solver=ppo", "^tuning=nothere: unknown. tuning: ppo"),
    ("hydra/launcher=nothere", "^hydra/launcher=nothere: unknown"),
    ("hydra.nothing=1", r"^hydra\.nothing: unknown"),
    ("hydra.mode=xx", r"hydra\.mode"),
    ("sead=1", "^sead: unknown. Did you mean seed"),
    ("+sead=1", "^sead: unknown. Did you mean seed"),
    ("++sead=1", "^sead: unknown. Did you mean seed"),
    ("+seed=3", "'seed'"),
    ("solver.x=1", r"^solver\.x: unknown\. Options: skip"),
    ("+solver.x=1", r"^solver\.x: unknown\. QueueRule takes skip|^solver\.x: unknown"),
    ("solver.skp=true", r"^solver\.skp: unknown\. Did you mean skip"),
    ("+dataset.agent=2", r"^dataset\.agent: unknown\. Did you mean agents"),
    ("dataset.sed=1", r"^dataset\.sed: unknown"),
    ("dataset.seed=1", r"^dataset\.seed: is not set in the yaml; add it as \+dataset\.seed=VALUE"),
    ("sweep=abc", "^sweep: is set by -m itself; leave it out"),
    ("sweep=../../x", "^sweep: is set by -m itself; leave it out"),
    ("-m sweep=abc", "^sweep: is set by -m itself; leave it out"),
    ("baselines=sjf", "^baselines: a list is needed, got 'sjf'"),
    ("baselines={a:1}", "^baselines: a list is needed, got "),
    ("baselines=5", "^baselines: a list is needed, got 5"),
    ("baselines=[[sjf]]", r"^baselines\[0\]: a string is needed, got \['sjf'\]"),
    ("baselines=[fifo,null]", r"^baselines\[1\]: a string is needed, got None"),
    ("baselines=[1]", r"^baselines\[0\]: a string is needed, got 1"),
    ("baselines=[sjff]", r"^baselines\[0\]: sjff: unknown\. Did you mean sjf"),
    ("\"baselines=['']\"", r"^baselines\[0\]: must not be empty"),
    ("baselines=[../solver/sjf]", r"^baselines\[0\]: \.\./solver/sjf: unknown"),
    ("baselines=[sjf,fifo,sjf]", r"^baselines\[2\]: sjf is named twice; name it once"),
    ("baselines=[bc]", "^baselines: bc learns from a log"),
    ("baselines=[cpsat] track=online", "cpsat plans with the future known"),
    ("baselines=[lagrangian]", "^track: lagrangian solves assign only"),
    ("+solver=bc", "^logs: this solver learns from logs; type logs=NAME"),
    ("+solver=cpsat track=online", "cpsat plans with the future known"),
    ("track=assign", "^track: assign does not go with sharing=time"),
    ("track=online observe=all", "^observe: track=online shows arrived tasks only"),
    ("backfill=easy", "^backfill: easy needs mode=commit"),
    *(
        (f"dataset=seed_example_budget +solver={solver} {rest}", rf"^{field}: ")
        for solver in ("sjf", "cpsat", "lagrangian")
        for rest, field in (
            ("event_order=sequential", "event_order"),
            ("events=singly", ".*renamed.*\nevent_order"),
            ("mode=commit", "mode"),
            ("objective=makespan", "objective"),
            ("track=online", "track|observe"),
        )
    ),
    ("dataset=seed_example_budget track=schedule", "^track: schedule does not go with sharing"),
]

TARGETS: Table = [
    ("budget._target_=5", "^budget: .* names no class in _target_"),
    ("budget._target_=nothere", "^_target_: nothere cannot be imported"),
    ("budget._target_=os.system", r"^budget\.\w+: unknown\. system takes command"),
    ("budget._target_=solvers.rules.SJF", r"^budget\.\w+: unknown\. SJF takes skip"),
    ("solver._target_=solvers.rules.SJFF", r"solvers\.rules\.SJFF cannot be imported"),
    ("solver._target_=bench.contracts.Budget", r"^solver\.skip: unknown\. Budget takes"),
    ("solver._target_=''", "^solver"),
    ("tracking._target_=solvers.rules.SJF", "^tracking: SJF is no Mlflow or Off"),
    ("dataset._target_=solvers.rules.SJF", r"^dataset\.\w+: unknown\. SJF takes skip"),
    ("~solver.skip solver._target_=bench.contracts.Budget", "^solver: Budget is no plug-in"),
    ("+solver._partial_=true", "^solver: .* is no plug-in"),
    ("+solver._partial_=5", r"^solver\._partial_: true or false is needed, got 5"),
    ("+solver._args_=[1]", r"^solver\._args_: unknown"),
    ("+solver._convert_=xx", r"^solver\._convert_: 'xx' must be one of none, partial, object, all"),
    ("+solver._recursive_=5", r"^solver\._recursive_: true or false is needed, got 5"),
]

PATHS: Table = [
    *((f"runs={path}", "^runs: .*no folder; name another folder") for path in ("FILE", "FILE/x")),
    *((f"cache={path}", "^cache: .*no folder; name another folder") for path in ("FILE", "FILE/x")),
    ("runs=LONG", r"^runs: value 'x+\.\.\.': is no path \(File name too long\)"),
    ("cache=LONG", r"^cache: value 'x+\.\.\.': is no path \(File name too long\)"),
    *((f"dataset.name={name}", r"^dataset\.name: value .*: must consist of letters") for name in (
        *("../../x", "a/b", "..", ".", "/etc", "'a b'", "'\"a\\nb\"'", ".x", "a%2Fb", "'a?b'"),
    )),
    ("dataset.name=''", r"^dataset\.name: must not be empty"),
    ("dataset.name=5", r"^dataset\.name: a string is needed, got 5"),
    ("dataset.name=LONG", r"^dataset\.name: value 'x+\.\.\.': must be at most 100 bytes"),
    ("-m seed=0,1 dataset.name=../x", r"^dataset\.name: value '\.\./x'"),
    ("dataset=file", r"^dataset\.path: no file was given"),
    ("dataset=file dataset.path=nothere", r"nothere: does not exist"),
    ("dataset=file dataset.path=DIR", r"DIR: no file in it matches"),
    ("dataset=file dataset.path=FILE", r"FILE: "),
    ("dataset=file dataset.path=FILE/x", r"FILE/x: does not exist"),
    ("dataset=file dataset.path=''", r"^dataset\.path: "),
    ("dataset=file dataset.path=5", r"^dataset\.path: a string or null is needed, got 5"),
    ("dataset=file dataset.path=[a]", r"^dataset\.path: a string or null is needed"),
    ("dataset=file dataset.path=/dev/null", r"/dev/null"),
    ("dataset=file dataset.path=LONG", r"File name too long|is no path"),
    ("dataset=file dataset.path=DIR dataset.pattern=/x*", r"^dataset"),
    ("dataset=file dataset.path=DIR dataset.pattern=''", r"^dataset\.pattern: must not be empty"),
    ("dataset=file dataset.path=instances.json split=train", r"has no split train"),
    ("dataset=swf dataset.path=DIR", r"DIR: no file in it matches"),
    ("dataset=swf dataset.path=FILE", r"FILE"),
    ("dataset=swf", r"^dataset\.path: no file was given"),
    ("dataset=gap dataset.path=FILE", r"FILE: line 1"),
    ("dataset=philly dataset.path=FILE", r"FILE: "),
    ("dataset=hydra dataset.path=FILE", r"FILE: line 1"),
    (
        "+solver=fifo dataset=swf dataset.path=FILE 'dataset.splits={test:{jobs:1,starts:[0]}}'",
        r"^dataset\.splits\.test\.starts: .* write \+\+dataset\.splits=",
    ),
    ("dataset=swf dataset.path=FILE dataset.splits=5", r"^dataset\.splits: a mapping is needed"),
    (
        "dataset=swf dataset.path=FILE dataset.splits.test=5",
        r"^dataset\.splits\.test: a mapping is needed, got 5",
    ),
    ("dataset=swf dataset.path=FILE dataset.splits.test.nothing=5", r"^dataset\.splits\.test\."),
    *((f"tracking=local tracking.uri={uri}", r"^tracking\.uri: ") for uri in (
        *("FILE", "sqlite:///FILE", "sqlite:///DIR", "''", "5", "sqlite:///", "sqlite://x", "http://"),
        *("mlflow.db", "http://:5", "sqlite:///LONG"),
    )),
    ("tracking=local tracking.experiment=''", r"^tracking\.experiment: must not be empty"),
    ("tracking=local tracking.experiment=5", r"^tracking\.experiment: a string is needed, got 5"),
    ("tracking=local tracking.artifacts=FILE", r"^tracking\.artifacts: .*no folder"),
    *((f"tracking=local tracking.{key}={value}", rf"^tracking\.{key}: ") for key, value in (
        *(("flush_seconds", "0"), ("flush_seconds", "nan"), ("sampling_seconds", "-1")),
        *(("system_metrics", "1"), ("sampling_seconds", "inf"), ("sampling_seconds", "abc")),
    )),
    ("tracking=off +tracking.uri=x", r"^tracking\.uri: unknown"),
]  # fmt: skip

OPTIONS: Table = [
    *((f"dataset.{key}={value}", rf"^dataset\.{key}: ") for key, value in (
        *(("test", "-1"), ("test", "1.5"), ("test", "true"), ("test", "1e9"), ("test", "abc")),
        *(("train", "-1"), ("validation", "x"), ("tasks", "5"), ("tasks", "[5]")),
        *(("tasks", "[6,5]"), ("tasks", "[0,0]"), ("tasks", "[1,2,3]")),
        *(("load", "0"), ("load", "nan"), ("load", "inf"), ("load", "abc"), ("load", "true")),
        *(("tick_seconds", "0"), ("tick_seconds", "nan"), ("tick_seconds", "-1")),
        *(("longest", "-1"), ("longest", "inf"), ("hashes", "5"), ("agents", "[]")),
        *(("agents", "5"), ("agents", "[{type:zzz,gpus:1,cpus:1,memory:1}]")),
    )),
    *((f"+dataset.{key}={value}", rf"^dataset\.{key}: ") for key, value in (
        *(("seed", "-1"), ("seed", "1.5"), ("arrivals", "sometimes"), ("arrivals", "5")),
        *(("tenants", "[]"), ("tenants", "[0,0]"), ("tenants", "[-1,2]"), ("tenants", "5")),
        *(("quota_share", "-1"), ("quota_share", "nan"), ("quota_share", "2")),
        *(("slack", "[2,1]"), ("slack", "5"), ("estimate_error", "-1"), ("outages", "9")),
        *(("outages", "-1"), ("weights", "{1:-1}"), ("weights", "{-1:1}"), ("weights", "{}")),
    )),
    ("+dataset.weights={a:1}", r"^dataset\.weights: the key 'a': an integer is needed"),
    ("dataset.tasks=[5,a]", r"^dataset\.tasks\[1\]: an integer is needed, got 'a'"),
    ("dataset.tasks=[5.5,6]", r"^dataset\.tasks\[0\]: an integer is needed, got 5\.5"),
    ("dataset.agents={a:1}", "dataset.agents"),
    ("dataset.agents=[{type:v100}]", r"^dataset\.agents\[0\]\.gpus: missing"),
    (
        "dataset.agents=[{type:v100,gpus:x,cpus:1,memory:1}]",
        r"^dataset\.agents\[0\]\.gpus: an integer is needed, got 'x'",
    ),
    (
        "dataset.agents=[{type:v100,gpus:-1,cpus:1,memory:1}]",
        r"^dataset\.agents\[0\]\.gpus: value -1: must not be negative",
    ),
    (
        "dataset.agents=[{type:v100,gpus:1,cpus:6,memory:99999,count:0}]",
        r"^dataset\.agents\[0\]\.count: value 0: must be at least 1",
    ),
    (
        "dataset.agents=[{type:v100,gpus:1,cpus:6,memory:99999,cout:2}]",
        r"^dataset\.agents\[0\]\.cout: unknown\. Did you mean count",
    ),
    ("dataset.test=0", "^dataset: tiny has no instances in split=test"),
    ("dataset.hashes={test:5}", r"^dataset\.hashes\.test: a string is needed, got 5"),
    ("dataset.hashes={test:abc}", r"^dataset\.hashes\.test: pinned"),
    *((f"+solver=ppo solver.checkpoint={path}", r"^solver\.checkpoint: ") for path in (
        *("nothere.pt", "DIR", "5", "''", "LONG", "[a]"),
    )),
    *((f"+solver=ppo solver.{key}={value}", rf"^solver\.{key}: ") for key, value in (
        *(("lr", "-1"), ("lr", "nan"), ("lr", "inf"), ("lr", "[1]"), ("lr", "abc"), ("lr", "true")),
        *(("epochs", "0"), ("epochs", "1.5"), ("num_envs", "-5"), ("num_envs", "true")),
        *(("gae_lambda", "2"), ("minibatch", "0"), ("window", "0"), ("decoding", "nothere")),
        *(("decoding", "5"), ("network", "nothere"), ("network", "../x"), ("width", "null")),
    )),
    ("+solver=ppo_pretrained solver.imitation=5", r"^solver\.imitation: a mapping with the _"),
    (
        "+solver=ppo_pretrained solver.imitation.teacher=5",
        r"^solver\.imitation\.teacher: a mapping",
    ),
    ("+solver=ppo_continual solver.adaptation=5", r"^solver\.adaptation: a mapping with the _"),
    *((f"+solver=bc logs=cluster-tiny-random-v0 {rest}", rf"^{field}") for rest, field in (
        ("solver.steps=0", r"solver\.steps: "),
        ("solver.steps=1.5", r"solver\.steps: an integer is needed"),
        ("logs.name=../../x", r"logs\.name: value '\.\./\.\./x'"),
        ("logs.name=x", r"logs\.name: value 'x'"),
        ("logs.name=LONG-v0", r"logs\.name: value 'x+\.\.\.'"),
        ("logs.seed=-1", r"logs\.seed: "),
        ("logs.behaviours=5", r"logs\.behaviours: a mapping is needed"),
        ("logs.data=5", r"logs\.data: a mapping"),
    )),
    ("+solver=bc solver.logs=5", r"^solver\.logs: a mapping with the _target_"),
    ("+solver=bc logs=imported", r"^logs\.path: "),
    ("+solver=bc logs=imported logs.path=nothere.csv", r"^logs\.path: nothere\.csv does not exist"),
    ("+solver=bc logs=imported logs.path=DIR", r"DIR"),
    ("+solver=bc logs=imported logs.path=LONG", r"File name too long|is no path|^logs\.path"),
    ("+solver=best_rule +solver.rules=5", r"^solver\.rules: a list or null is needed"),
    ("+solver=best_rule +solver.rules=[5]", r"^solver\.rules\[0\]: a mapping with the _target_"),
]  # fmt: skip

LATE: Table = [  # what only a run finds out, so that its folder exists by then
    ("+solver=ppo solver.checkpoint=FILE", "^checkpoint: FILE is no policy of this suite"),
]

SWEEPS: Table = [
    ("seed=0,1", "--multirun"),
    ("+solver=glob(s*)", "requires --multirun"),
    ("-m +solver=glob(zz*)", r"^\+solver=glob\(zz\*\): matches nothing; there are a2c"),
    ("-m +solver=glob(s*)", "^logs: this solver learns from logs"),
    ("-m +solver=glob([", "no viable alternative"),
    ("-m +solver=sjf,sjf", r"^\+solver=sjf,sjf: sjf is named twice"),
    ("-m seed=0,1,0", "^seed=0,1,0: 0 is named twice"),
    ("-m +solver=sjf,null", r"^solver: a name is needed, got None"),
    ("-m seed=interval(0,2)", "does not support sweep type"),
    ("-m dataset=tiny,swf", r"^dataset\.path: no file was given"),
    ("-m hydra/sweeper=nothere", "the plug-in is missing"),
    ("-m hydra/launcher=nothere", "^hydra/launcher=nothere: unknown"),
    ("-m +solver=sjf,ljf --cfg job", "^--multirun: a sweep has no single configuration"),
]

SYNTAX: Table = [
    ("foo", "^foo: Error parsing override"),
    ("=5", "^=5: names no option; write OPTION=VALUE"),
    ("seed=[", r"^seed=\[: "),
    ("solver=sjf,ljf", "--multirun"),
    ("dataset.name=a=b", "a=b"),
    ("--nothing", "--nothing; --help lists all flags"),
    ("--cfg", "--cfg"),
    ("--cfg nothing", "--cfg"),
    ("--config-dir", "--config-dir"),
    ("--config-dir nothere", "^--config-dir: nothere is no folder"),
    ("--config-dir FILE", "^--config-dir: FILE is no folder"),
    ("--config-path x", "^--config-name, --config-path: the suite has one configuration"),
    ("--config-name x", "^--config-name, --config-path: the suite has one configuration"),
    ("--info nothing", "--info"),
    ("--cfg job sead=1", "^sead: unknown. Did you mean seed"),
    ("--cfg job budget=null", "^budget: a name is needed"),
]

EVERY = [
    *DELETED, *NULL, *TYPES, *NAMES, *TARGETS, *PATHS, *OPTIONS, *SWEEPS, *SYNTAX
]  # fmt: skip

PROGRAMS: Table = [
    *((f"{program} --nothing", "--nothing.*--help lists the options") for program in (
        *("leaderboard", "references", "tracking replay x", "offline_report", "verify FILE"),
    )),
    ("leaderboard x", "x"),
    ("leaderboard --uri", "--uri"),
    ("leaderboard --uri FILE", "^uri: value 'FILE': is no store; write sqlite:///FILE"),
    ("leaderboard --uri sqlite:///FILE", "^uri: .*FILE is no SQLite database"),
    ("leaderboard --uri sqlite:///DIR", "^uri: .*DIR is a folder"),
    ("leaderboard --uri sqlite:///nothere.db", "^uri: there is no store"),
    ("leaderboard --uri ''", "^uri: value ''"),
    ("leaderboard --out FILE", "^--out: .*FILE is no folder"),
    ("leaderboard --out FILE/x", "^--out: .*FILE is no folder"),
    ("leaderboard --out LONG", "^--out: .*too long"),
    ("references nothere", "'nothere' must be one of"),
    ("references ../tiny", "must be one of"),
    ("tracking", "required"),
    ("tracking replay", "FOLDER"),
    ("tracking nothing x", "nothing"),
    ("tracking replay DIR --uri FILE", "^--uri: value 'FILE': is no store"),
    ("tracking replay DIR --uri sqlite:///FILE", "^--uri: FILE is no SQLite database"),
    ("offline_report x", "x"),
    ("offline_report --runs nothere", "^--runs: nothere is no folder"),
    ("offline_report --runs FILE", "^--runs: FILE is no folder"),
    ("offline_report --page DIR", "^--page: value 'DIR': is a folder; name a file"),
    ("offline_report --page FILE/x", "^--page: .*FILE is no folder"),
    ("offline_report --data DIR", "^--data: value 'DIR': is a folder; name a file"),
    ("offline_report --data FILE", "FILE"),
    ("offline_report --data instances.json", "^--data: instances.json holds no runs"),
    ("offline_report", "no finished run that was trained on a log"),
    ("verify", "INSTANCE"),
    ("verify nothere", "nothere"),
    ("verify FILE", "FILE|JSON"),
    ("verify DIR", "DIR"),
    ("verify FILE FILE", "FILE|JSON"),
    ("verify LONG", "too long"),
    ("verify instances.json nothere", "instance|nothere"),
    ("verify FILE --seconds 0", "--seconds: a positive number is needed, got 0"),
    ("verify FILE --seconds nan", "--seconds: a positive number is needed, got nan"),
    ("verify FILE --seconds abc", "--seconds"),
    ("verify FILE FILE --objective cost", "--objective"),
    ("verify FILE --objective makespan", "--objective: a certificate names its own"),
    ("speed nothere", "benchmark: 'nothere' must be one of"),
    ("speed simulator --threads 0", "--threads: at least 1 is needed, got 0"),
    ("speed simulator --threads x", "--threads"),
    ("speed simulator --json DIR", "^--json: value 'DIR': is a folder"),
    ("speed simulator --json nothere/x.json", "--json: the folder .*nothere does not exist"),
    ("speed simulator --json FILE", "^--json: FILE is no record of this program"),
    ("speed simulator --json instances.json", "^--json: instances.json is no record"),
]  # fmt: skip
