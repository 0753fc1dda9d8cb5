"""Bad input on the command line, of what came with runs: files of options, --resume, sample, report, new, lists.

As in `test_bad_input.py`: one line on stderr, exit status 2, and the disk as it was.
"""

import shlex
from pathlib import Path
from typing import Any, get_args

import pytest
from bad_places import YAML, enter, refused

from ppvae.catalogue import COMMANDS as ALL


@pytest.fixture(autouse=True)
def here(bad_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(bad_place, monkeypatch)


# A command, what the line must name, and the way out that it must offer

COMMANDS: list[tuple[str, str, str]] = [
    # going on with runs
    ("fit --resume missing", "missing is not a run", "it has no config.yaml"),
    ("fit --resume gmm", "gmm is finished", "ppvae evaluate gmm judges it"),
    ("fit --resume empty", "empty is not a run", "it has no config.yaml"),
    ("fit --resume my.py", "my.py is not a run", "it has no config.yaml"),
    ("fit --resume full", "full is not a run", "it has no config.yaml"),
    ("fit --resume stopped-compare", "stopped-compare is no run of ppvae fit: a comparison goes on with ppva", ""),
    ("fit --resume compared", "compared is no run of ppvae fit: a comparison goes on with ppvae compa", ""),
    (
        "fit --resume compared/fits/ppca-exact-0",
        "compared/fits/ppca-exact-0 is finished",
        "ppvae evaluate compared/fits/ppca-exact-0 judges it",
    ),
    (
        "fit --resume stopped-by-hand",
        "stopped-by-hand began with a class, data or an encoder made in Python",
        "go on there with ppvae.fit(..., run_dir=, resume=True)",
    ),
    ("fit --resume no-config", "no-config is not a run", "it has no config.yaml"),
    ("fit --resume cut-config", "cut-config is damaged", "config.yaml"),
    ("fit --resume list-config", "list-config is damaged", "config.yaml"),
    (
        "fit --resume resume-no-checkpoint",
        "resume-no-checkpoint/checkpoint.pt is missing or damaged, or holds mor",
        "remove resume-no-checkpoint and start anew",
    ),
    (
        "fit --resume resume-cut",
        "resume-cut/checkpoint.pt is missing or damaged, or holds more than ten",
        "remove resume-cut and start anew",
    ),
    ("fit --resume resume-infinite", "lr", "must be a finite number > 0, got inf"),
    ("fit --resume resume-unknown", "unknown entry of config.yaml 'lk'", "known: name, data, dat"),
    (
        "fit --resume resume-model",
        "resume-model/checkpoint.pt is damaged or of another model (RuntimeErro",
        "remove resume-model and start anew",
    ),
    ("fit --resume resume-word", "epochs", "must be a whole number ≥ 1, got 'x'"),
    ("fit --resume resume-no-name", "resume-no-name is no run of ppvae fit: a comparison goes on with ppvae", ""),
    ("fit --resume resume-no-versions", "resume-no-versions is damaged", "config.yaml"),
    ("fit --resume resume-options", "inference_options", "must be a mapping of options to values, got 3"),
    ("fit --resume stopped-fit --lr 0.1", "--resume takes all options from the run", "leave out --lr"),
    ("fit --resume stopped-fit --seed 1", "--resume takes all options from the run", "leave out --seed"),
    ("fit ppca --resume stopped-fit", "--resume takes all options from the run", "leave out --name"),
    ("fit --resume stopped-fit --run_dir other", "--resume takes all options from the run", "leave out --run_dir"),
    ("fit --resume stopped-fit --model.latent_dim 3", "--resume takes all options from the run", "leave out --model"),
    ("fit --resume ''", ". is not a run", "it has no config.yaml"),
    ("fit --resume", "argument --resume: expected one argument", "see ppvae fit --help"),
    ("fit --resume=null", "ppvae fit needs a name", "ppvae list"),
    ("fit --resume 3", "3 is not a run", "it has no config.yaml"),
    ("fit --resume --data iris", "argument --resume: expected one argument", "see ppvae fit --help"),
    (
        "fit --config stopped-fit/config.yaml --resume stopped-fit",
        "--resume takes all options from the run",
        "leave out --name",
    ),
    ("compare --resume missing", "missing is not a run", "it has no config.yaml"),
    ("compare --resume empty", "empty is not a run", "it has no config.yaml"),
    ("compare --resume my.py", "my.py is not a run", "it has no config.yaml"),
    ("compare --resume stopped-fit", "stopped-fit is no comparison: a fit goes on with ppvae fit --resume st", ""),
    ("compare --resume gmm", "gmm is no comparison: a fit goes on with ppvae fit --resume gmm", ""),
    ("compare --resume go-on-unknown", "unknown option 'sedes'", "known: objective"),
    (
        "compare --resume go-on-fit",
        "unknown option 'epoch'",
        "did you mean 'epochs'",
    ),
    ("compare --resume go-on-infinite", "epochs", "must be a whole number ≥ 1, got inf"),
    ("compare --resume go-on-word", "num_samples", "must be a whole number ≥ 1, got 'many'"),
    ("compare --resume go-on-fits", "fit", "must be a mapping of options to values, got 3"),
    ("compare --resume go-on-list", "go-on-list is damaged", "config.yaml"),
    ("compare --resume results-fit", "results-fit/fits/ppca-exact-0/results.json is damaged", "JSONDecodeError"),
    (
        "compare --resume evidence-cut",
        "evidence-cut/fits/ppca-exact-0/evidence.nc is damaged",
        "OSError('Unable to synchronously open file (file signature n",
    ),
    ("compare --resume metrics-cut", "metrics-cut/fits/ppca-exact-0 is damaged", "metrics.csv"),
    ("compare --resume config-cut", "config-cut/fits/ppca-exact-0 is damaged", "config.yaml"),
    ("compare --resume stopped-compare --seeds 1", "--resume takes all options from the run", "leave out --seeds"),
    ("compare --resume stopped-compare --fit.lr 0.5", "--resume takes all options from the run", "leave out --fit"),
    ("compare vae --resume stopped-compare", "--resume takes all options from the run", "leave out --models"),
    ("compare --resume", "argument --resume: expected one argument", "see ppvae compare --help"),
    ("compare --resume ''", ". is not a run", "it has no config.yaml"),
    # places of runs
    (
        "fit ppca --data iris --run_dir stopped-fit",
        "stopped-fit exists and is not an empty folder",
        "choose another run directory",
    ),
    (
        "fit ppca --data iris --run_dir stopped-compare",
        "stopped-compare exists and is not an empty folder",
        "choose another run directory",
    ),
    (
        "compare ppca --data iris --run_dir stopped-compare",
        "stopped-compare exists and is not an empty folder",
        "choose another run directory",
    ),
    (
        "compare ppca --data iris --run_dir compared",
        "compared exists and is not an empty folder",
        "choose another run directory",
    ),
    ("sample", "ppvae sample needs a run", "see ppvae sample --help"),
    ("sample missing", "missing is not a saved fit", "it has no config.yaml"),
    ("sample my.py", "my.py is not a saved fit", "it has no config.yaml"),
    ("sample empty", "empty is not a saved fit", "it has no config.yaml"),
    ("sample stopped-fit", "stopped-fit is not finished", "ppvae fit --resume stopped-fit goes on with it"),
    ("sample compared", "compared is a comparison", "name one of its fits, such as compared/fits/ppca-exact-0"),
    (
        "sample stopped-compare",
        "stopped-compare is a comparison",
        "name one of its fits, such as stopped-compare/fits/ppca-exa",
    ),
    ("sample no-weights", "no-weights is not a saved fit", "it has no weights.safetensors"),
    ("sample cut-metrics", "cut-metrics is damaged", "metrics.csv"),
    ("sample cut-outcome", "cut-outcome is damaged", "ParserError"),
    ("sample gmm --out my.txt", "out: 'my.txt' exists, or its folder does not", "choose another file"),
    ("sample gmm --out gmm.png", "a datum of iris has shape [4], which is no image: use .csv or .npy", ""),
    ("sample gmm --out new.txt", "out: 'new.txt'", "must end in .png, .csv, .npy"),
    ("sample gmm --out no/such.csv", "out: 'no/such.csv' exists, or its folder does not", "choose another file"),
    ("sample gmm --out ''", "out: '' exists, or its folder does not", "choose another file"),
    ("sample gmm --out full", "out: 'full' exists, or its folder does not", "choose another file"),
    ("sample vae --out x.jpeg", "out: 'x.jpeg'", "must end in .png, .csv, .npy"),
    ("sample gmm --num_samples many", "--num_samples", "must be a whole number, got 'many'"),
    (
        "sample gmm --samples 3",
        "unknown option 'samples'",
        "did you mean 'num_samples'",
    ),
    ("report", "ppvae report needs a run", "see ppvae report --help"),
    ("report missing", "missing is not a run", "it has no config.yaml"),
    ("report my.py", "my.py is not a run", "it has no config.yaml"),
    ("report empty", "empty is not a run", "it has no config.yaml"),
    ("report full", "full is not a run", "it has no config.yaml"),
    ("report stopped-fit", "stopped-fit has no results yet", "fit --resume stopped-fit goes on"),
    ("report stopped-compare", "stopped-compare has no results yet", "compare --resume stopped-compare goes on"),
    ("report no-config", "no-config is not a run", "it has no config.yaml"),
    ("report cut-config", "cut-config is damaged", "config.yaml"),
    ("report list-config", "list-config is damaged", "config.yaml"),
    ("report no-outcome", "no-outcome has no results yet", "fit --resume no-outcome goes on"),
    ("report results-cut", "results-cut/results.json is damaged", "JSONDecodeError"),
    ("report results-schema", "results-schema/results.json has schema 7, this version reads 1", ""),
    ("report results-rows", "results-rows/results.json is damaged", "TypeError"),
    ("report results-fit", "results-fit/fits/ppca-exact-0/results.json is damaged", "JSONDecodeError"),
    (
        "report evidence-cut",
        "evidence-cut/fits/ppca-exact-0/evidence.nc is damaged",
        "OSError('Unable to synchronously open file (file signature n",
    ),
    ("report metrics-cut", "metrics-cut/fits/ppca-exact-0 is damaged", "metrics.csv"),
    ("report config-cut", "config-cut/fits/ppca-exact-0 is damaged", "config.yaml"),
    ("report cut-metrics", "cut-metrics is damaged", "metrics.csv"),
    ("report gmm --out x", "unknown option 'out'", "known: run, versions"),
    ("report gmm vae", "unrecognized arguments: vae", "see ppvae report --help"),
    ("report ''", ". is not a run", "it has no config.yaml"),
    ("new", "ppvae new needs a file", "see ppvae new --help"),
    ("new my.py", "out: 'my.py' exists, or its folder does not", "choose another file"),
    ("new full", "out: 'full' exists, or its folder does not", "choose another file"),
    ("new model.txt", "out: 'model.txt'", "must end in .py"),
    ("new model", "out: 'model'", "must end in .py"),
    ("new 3.py", "'3.py' makes no class name", "choose one like my_model.py"),
    ("new '.py'", "out: '.py'", "must end in .py"),
    ("new no/such.py", "out: 'no/such.py' exists, or its folder does not", "choose another file"),
    ("new ''", "out: '.' exists, or its folder does not", "choose another file"),
    ("new 'a b.py' --out x", "unknown option 'out'", "known: file, versions"),
    ("new my-model.py/inside.py", "out: 'my-model.py/inside.py' exists, or its folder does not", "choose another file"),
    ("list --runs --folder missing", "no folder missing: runs are kept in runs/ of the folder where ppvae fi", ""),
    ("list --runs --folder my.py", "no folder my.py: runs are kept in runs/ of the folder where ppvae fit", ""),
    ("list --folder", "argument --folder: expected one argument", "see ppvae list --help"),
    ("list --runs missing", "unrecognized arguments: missing", "see ppvae list --help"),
    ("list --runs=maybe", "argument --runs: ignored explicit argument 'maybe'", "see ppvae list --help"),
    ("list --run", "unknown option 'run'", "did you mean 'runs'"),
    ("list extra", "unrecognized arguments: extra", "see ppvae list --help"),
    ("evaluate stopped-fit", "stopped-fit is not finished", "ppvae fit --resume stopped-fit goes on with it"),
    ("evaluate compared", "compared is a comparison", "name one of its fits, such as compared/fits/ppca-exact-0"),
    (
        "evaluate stopped-compare",
        "stopped-compare is a comparison",
        "name one of its fits, such as stopped-compare/fits/ppca-exa",
    ),
    (
        "evaluate gmm --overwrite=maybe",
        "argument --overwrite: ignored explicit argument 'maybe'",
        "see ppvae evaluate --help",
    ),
    ("evaluate gmm --overwrite 3", "unknown words '3'", "a value follows its option, like --data VALUE"),
    ("evaluate gmm --out my.txt --overwrite", "out: 'my.txt' exists, or its folder does not", "choose another file"),
    ("evaluate by_hand --labels 3", "by_hand was fitted to data made in Python: name data to judge it on wi", ""),
    ("evaluate gmm --data letters.csv --labels x", "unknown column of 'letters.csv' 'x'", "known: a, b"),
    ("evaluate gmm --versions 3", "--versions", "must be a mapping like {a: 1} or null, got '3'"),
    (
        "compare --config compared/config.yaml --run_dir compared",
        "compared exists and is not an empty folder",
        "choose another run directory",
    ),
    ("evaluate gmm --config list.yaml", "--config must name a file of YAML like 'seed: 1', a line an option: Un", ""),
    ("new --config list.yaml", "--config must name a file of YAML like 'seed: 1', a line an option: Un", ""),
    ("list --config broken.yaml", "Problems parsing config", "see ppvae"),
    ("sample gmm 3", "unknown words '3'", "a value follows its option, like --out VALUE"),
    # files of options
    ("fit ppca --config stopped-fit/config.yaml --config missing.yaml", "config", "see ppvae fit --help"),
    (
        "fit --config stopped-compare/config.yaml",
        "unknown option 'fit.epochs'",
        "did you mean 'epochs'",
    ),
    ("compare --config stopped-fit/config.yaml", "unknown option 'name'", "known: models, inferen"),
    ("fit --config .", "config", "see ppvae fit --help"),
    (
        "fit --config ''",
        "Parser key \"config\": --config must name a file of YAML like 'seed: 1',",
        "see ppvae fit --help",
    ),
    ("fit --config my.py", "Problems parsing config", "see ppvae"),
    ("fit --config gmm/weights.safetensors", "--config must name a file of YAML", "UTF-8"),
    ("show --config list.yaml", "--config must name a file of YAML like 'seed: 1', a line an option: Un", ""),
    ("fit --config broken.yaml", "Problems parsing config", "see ppvae"),
    ("compare --config broken.yaml", "Problems parsing config", "see ppvae"),
    ("fit --config list.yaml", "--config must name a file of YAML like 'seed: 1', a line an option: Un", ""),
    ("compare --config list.yaml", "--config must name a file of YAML like 'seed: 1', a line an option: Un", ""),
    ("fit --config empty.yaml", "--config must name a file of YAML like 'seed: 1', a line an option: Un", ""),
    ("compare --config empty.yaml", "--config must name a file of YAML like 'seed: 1', a line an option: Un", ""),
    ("fit --config word.yaml", "--config must name a file of YAML like 'seed: 1', a line an option: Un", ""),
    ("compare --config word.yaml", "--config must name a file of YAML like 'seed: 1', a line an option: Un", ""),
    (
        "fit --config unknown.yaml",
        "unknown option 'dta'",
        "did you mean 'data'",
    ),
    (
        "compare --config unknown.yaml",
        "unknown option 'dta'",
        "did you mean 'data'",
    ),
    ("fit --config wrong.yaml", "--seed", "must be a whole number, got 'soon'"),
    (
        "compare --config wrong.yaml",
        "unknown option 'seed'",
        "did you mean 'seeds'",
    ),
    ("fit --config tag.yaml", "Problems parsing config", "see ppvae"),
    ("fit --config infinite.yaml", "ppvae fit needs a name", "ppvae list"),
    ("compare --config infinite.yaml", "unknown option 'lr'", "known: models, inferen"),
    ("fit --config nan.yaml", "ppvae fit needs a name", "ppvae list"),
    ("compare --config nan.yaml", "unknown option 'lr'", "known: models, inferen"),
    ("fit --config beyond.yaml", "--epochs", "must be a whole number, got 'inf'"),
    (
        "compare --config beyond.yaml",
        "unknown option 'epochs'",
        "did you mean 'fit.epochs'",
    ),
    ("fit --config infinite-epochs.yaml", "--epochs", "must be a whole number, got 'inf'"),
    (
        "compare --config infinite-epochs.yaml",
        "unknown option 'epochs'",
        "did you mean 'fit.epochs'",
    ),
    ("fit --config infinite-seconds.yaml", "ppvae fit needs a name", "ppvae list"),
    ("compare --config infinite-seconds.yaml", "seconds", "must be a finite number > 0, got -inf"),
    (
        "fit --config nested.yaml",
        "unknown option 'fit.data'",
        "did you mean 'data'",
    ),
    (
        "compare --config nested.yaml",
        "unknown option 'fit.data'",
        "did you mean",
    ),
    ("fit --config deep.yaml", "--data", "must be a word or null, got \"{'name': 'iris'}\""),
    ("compare --config deep.yaml", "--data", "must be a word or null, got \"{'name': 'iris'}\""),
    ("fit --config flat-model.yaml", "unknown option 'latent_dim'", "known: name, data, run"),
    ("compare --config flat-model.yaml", "unknown option 'latent_dim'", "known: models, inferen"),
    ("fit --config word-model.yaml", "--model", "must be a mapping like {a: 1} or null, got 'latent_dim'"),
    ("compare --config word-model.yaml", "--model", "must be a mapping like {a: 1} or null, got 'latent_dim'"),
    ("fit --config list-model.yaml", "--model", "must be a mapping like {a: 1} or null, got \"['latent_dim', 3"),
    ("compare --config list-model.yaml", "--model", "must be a mapping like {a: 1} or null, got \"['latent_dim', 3"),
    (
        "fit --config bad-model.yaml",
        "ppca: unknown option 'latnet_dim'",
        "did you mean 'latent_dim'",
    ),
    ("compare --config bad-model.yaml", "unknown option 'name'", "known: models, inferen"),
    ("fit --config bad-value.yaml", "--model.latent_dim", "must be a whole number, got 'inf'"),
    ("compare --config bad-value.yaml", "unknown option 'name'", "known: models, inferen"),
    ("fit --config bad-inference.yaml", "encoder", "must be a torch.nn.Module, got str"),
    (
        "compare --config bad-inference.yaml",
        "--inference_options",
        "must be a mapping like {a: {b: 1}} or null, got \"{'encoder':",
    ),
    ("fit --config date.yaml", "unknown model '2026-01-01'", "known: dlgm, gmm, ppca"),
    ("compare --config date.yaml", "unknown option 'name'", "known: models, inferen"),
    ("fit --config number-name.yaml", "--name", "must be a word or null, got '3'"),
    ("compare --config number-name.yaml", "unknown option 'name'", "known: models, inferen"),
    ("fit --config list-name.yaml", "--name", "must be a word or null, got \"['ppca']\""),
    ("compare --config list-name.yaml", "unknown option 'name'", "known: models, inferen"),
    ("fit --config number-data.yaml", "--data", "must be a word or null, got '3'"),
    ("compare --config number-data.yaml", "--data", "must be a word or null, got '3'"),
    ("compare --config null-data.yaml", "unknown option 'name'", "known: models, inferen"),
    ("fit --config zero.yaml", "'a\\x00b' cannot be a run directory: embedded null byte", ""),
    ("compare --config zero.yaml", "unknown option 'name'", "known: models, inferen"),
    ("fit --config twice.yaml", "--lr", "must be a number, got 'fast'"),
    ("compare --config twice.yaml", "unknown option 'name'", "known: models, inferen"),
    (
        "fit --config own-config.yaml",
        "Config file loop detected: own-config.yaml -> own-config.yaml",
        "see ppvae fit --help",
    ),
    (
        "compare --config own-config.yaml",
        "Config file loop detected: own-config.yaml -> own-config.yaml",
        "see ppvae compare --help",
    ),
    ("fit --config resume.yaml", "--resume takes all options from the run", "leave out --lr"),
    ("compare --config resume.yaml", "unknown option 'lr'", "known: models, inferen"),
    ("fit --config versions.yaml", "--versions", "must be a mapping like {a: 1} or null, got '3'"),
    ("compare --config versions.yaml", "--versions", "must be a mapping like {a: 1} or null, got '3'"),
    ("fit --config alias.yaml", "--model", "must be a mapping like {a: 1} or null, got \"{'b': {...}}\""),
    ("compare --config alias.yaml", "--model", "must be a mapping like {a: 1} or null, got \"{'b': {...}}\""),
    ("fit --config tab.yaml", "Problems parsing config", "see ppvae"),
    ("compare --config tab.yaml", "Problems parsing config", "see ppvae"),
    ("fit --config binary.yaml", "--data", "must be a word or null, got \"b'i\\\\xa6\\\\x9a'\""),
    ("compare --config binary.yaml", "--data", "must be a word or null, got \"b'i\\\\xa6\\\\x9a'\""),
    ("compare --config models-list.yaml", "--models", "must be a list like [a, b] or a word or a mapping like {a: {"),
    ("compare --config models-number.yaml", "--models", "must be a list like [a, b] or a word or a mapping like {a: {"),
    ("compare --config models-empty.yaml", "models is empty: name at least one", ""),
    ("compare --config models-word.yaml", "--models", "must be a list like [a, b] or a word or a mapping like {a: {"),
    (
        "compare --config models-loose.yaml",
        "ppca: unknown option 'latnet_dim'",
        "did you mean 'latent_dim'",
    ),
    ("compare --config models-value.yaml", "latent_dim", "must be a whole number ≥ 1, got 'two'"),
    ("compare --config models-infinite.yaml", "latent_dim", "must be a whole number ≥ 1, got inf"),
    ("compare --config models-unknown.yaml", "unknown model 'large'", "known: dlgm, gmm, ppca"),
    (
        "compare --config models-kind.yaml",
        "unknown model 'pca'",
        "did you mean 'ppca'",
    ),
    ("compare --config models-kind-number.yaml", "unknown model '3'", "known: dlgm, gmm, ppca"),
    ("compare --config models-kind-list.yaml", "unknown model", "known: dlgm, gmm, ppca"),
    ("compare --config models-kind-null.yaml", "unknown model 'None'", "known: dlgm, gmm, ppca"),
    ("compare --config models-nested.yaml", "latent_dim", "path/to/file.py:ClassName"),
    ("compare --config models-null.yaml", "--models", "must be a list like [a, b] or a word or a mapping like {a: {"),
    ("compare --config fit-word.yaml", "fit", "must be a mapping of options to values, got 'fast'"),
    ("compare --config fit-list.yaml", "fit", "must be a mapping of options to values, got ['lr', 0.1]"),
    (
        "compare --config fit-unknown.yaml",
        "unknown option 'fit.epoch'",
        "did you mean 'fit.epochs'",
    ),
    ("compare --config fit-nan.yaml", "lr", "must be a finite number > 0, got nan"),
    ("compare --config fit-infinite.yaml", "--fit.epochs", "must be a whole number, got 'inf'"),
    (
        "compare --config fit-nested.yaml",
        "unknown option 'fit.fit.lr'",
        "did you mean 'fit.lr'",
    ),
    ("compare --config seeds-infinite.yaml", "--seeds", "must be a list like [a, b] or a whole number or null, got '["),
    ("compare --config seeds-null.yaml", "--seeds", "must be a list like [a, b] or a whole number or null, got '["),
    ("compare --config seeds-map.yaml", "--seeds", "must be a list like [a, b] or a whole number or null, got '{"),
    (
        "compare --config inference-map.yaml",
        "--inference",
        "must be a list like [a, b] or a word or null, got \"{'exact':",
    ),
    (
        "compare --config inference-options.yaml",
        "per-datapoint: unknown option 'inner_stepz'",
        "did you mean 'inner_steps'",
    ),
    (
        "compare --config inference-flat.yaml",
        "--inference_options",
        "must be a mapping like {a: {b: 1}} or null, got \"{'inner_ste",
    ),
    ("fit ppca --config infinite.yaml", "lr", "must be a finite number > 0, got inf"),
    ("fit ppca --config nan.yaml", "lr", "must be a finite number > 0, got nan"),
    ("fit ppca --config infinite-seconds.yaml", "seconds", "must be a finite number > 0, got -inf"),
    (
        "fit ppca --config nested.yaml",
        "unknown option 'fit.data'",
        "did you mean 'data'",
    ),
    ("fit ppca --config resume.yaml", "--resume takes all options from the run", "leave out --name"),
    # models, their options and labels
    ("fit ppca --data iris --model.latent_dim=two", "--model.latent_dim", "must be a whole number, got 'two'"),
    (
        "fit ppca --data iris --model.latnet_dim=2",
        "ppca: unknown option 'latnet_dim'",
        "did you mean 'latent_dim'",
    ),
    (
        "fit ppca --data iris --model.latent_dim.deep 3",
        "ppca: unknown option 'latent_dim.deep'",
        "did you mean 'latent_dim'",
    ),
    ("fit ppca --data iris --model.", "argument --model: expected one argument", "see ppvae fit --help"),
    ("fit ppca --data iris --model.=3", "ppca: unknown option ''", "known: x_dim, latent_d"),
    ("fit ppca --data iris --model. 3", "ppca: unknown option ''", "known: x_dim, latent_d"),
    (
        "fit ppca --data iris --model latent_dim=3",
        "--model",
        "must be a mapping like {a: 1} or null, got 'latent_dim=3'",
    ),
    ("fit --model.latent_dim 3", "ppvae fit needs a name", "ppvae list"),
    ("fit --data iris", "ppvae fit needs a name", "ppvae list"),
    (
        "compare --models '[ppca, gmm]' --data iris --model.latent_dim 3",
        "gmm: unknown option 'latent_dim'",
        "known: x_dim, num_comp",
    ),
    (
        "compare --models '[vae, dlgm]' --model.hidden '[8, 8]'",
        "--model.hidden",
        "must be a whole number, got '[8, 8]'",
    ),
    (
        "compare --models '[vae, dlgm]' --model.latent_dim 3",
        "dlgm: unknown option 'latent_dim'",
        "did you mean 'latent_dims'",
    ),
    (
        "compare --models '[vae, ppca]' --data iris --model.latent_dim two",
        "--model.latent_dim",
        "must be a whole number, got 'two'",
    ),
    (
        "compare --models '{ppca: {latnet_dim: 2}}' --data iris",
        "ppca: unknown option 'latnet_dim'",
        "did you mean 'latent_dim'",
    ),
    ("compare --models '{ppca: {latent_dim: two}}' --data iris", "latent_dim", "must be a whole number ≥ 1, got 'two'"),
    (
        "compare --models '{ppca: {latent_dim: 2}' --data iris",
        "'{ppca: {latent_dim: 2}' is not of the form path/to/file.py:ClassName",
        "",
    ),
    ("compare --models '{ppca: 3}' --data iris", "'{ppca: 3}' is not of the form path/to/file.py:ClassName", ""),
    ("compare --models '{large: {}}' --data iris", "unknown model 'large'", "known: dlgm, gmm, ppca"),
    ("compare --models '{large: null}' --data iris", "unknown model 'large'", "known: dlgm, gmm, ppca"),
    ("compare --models '{}' --data iris", "models is empty: name at least one", ""),
    (
        "compare --models '[[ppca]]' --data iris",
        "unknown model '[[ppca]]'",
        "did you mean 'ppca'",
    ),
    ("compare --models '[3]' --data iris", "unknown model '[3]'", "known: dlgm, gmm, ppca"),
    ("compare --models 3 --data iris", "unknown model '3'", "known: dlgm, gmm, ppca"),
    (
        "compare '{a: {model: ppca}, b: {model: pca}}' --data iris",
        "unknown model 'pca'",
        "did you mean 'ppca'",
    ),
    ("compare ppca gmm --data iris", "unknown words 'gmm'", "a value follows its option, like --models VALUE"),
    ("compare ppca --models gmm --data iris", "models is given twice", "leave out 'ppca' or --models"),
    ("fit ppca --name gmm --data iris", "name is given twice", "leave out 'ppca' or --name"),
    ("compare --models.ppca 3 --data iris", "--models", "must be a list like [a, b] or a word or a mapping like {a: {"),
    ("compare ppca --labels species", "labels='species' names a column of a .csv file, and 'digits' has no co", ""),
    (
        "compare ppca --data iris --labels 0",
        "labels=0 names a column of a .csv file, and 'iris' has no columns to n",
        "",
    ),
    ("fit ppca --data letters.csv --labels c", "unknown column of 'letters.csv' 'c'", "known: a, b"),
    (
        "fit ppca --data letters.csv --labels 7",
        "'letters.csv' has columns 0 to 1, or -2 to -1: labels=7 is none of the",
        "",
    ),
    (
        "fit ppca --data iris --labels species",
        "labels='species' names a column of a .csv file, and 'iris' has no colu",
        "",
    ),
    (
        "fit my.py:Missing --data iris",
        "my.py has no ppvae.Model called 'Missing'",
        "it has Linear, Needy, NoEvent, WrongSize, Blind, Guided, Hid",
    ),
    (
        "compare my.py:Missing --data iris",
        "my.py has no ppvae.Model called 'Missing'",
        "it has Linear, Needy, NoEvent, WrongSize, Blind, Guided, Hid",
    ),
    (
        "compare '[ppca, my.py:Missing]' --data iris",
        "my.py has no ppvae.Model called 'Missing'",
        "it has Linear, Needy, NoEvent, WrongSize, Blind, Guided, Hid",
    ),
    (
        "compare '{large: {model: my.py:Missing}}' --data iris",
        "my.py has no ppvae.Model called 'Missing'",
        "it has Linear, Needy, NoEvent, WrongSize, Blind, Guided, Hid",
    ),
    ("compare nowhere.py:Mine --data iris", "no such file: nowhere.py", ""),
    (
        "compare my.py:NoModel --data iris",
        "my.py has no ppvae.Model called 'NoModel'",
        "it has Linear, Needy, NoEvent, WrongSize, Blind, Guided, Hid",
    ),
    (
        "fit my.py:Missing --help",
        "my.py has no ppvae.Model called 'Missing'",
        "it has Linear, Needy, NoEvent, WrongSize, Blind, Guided, Hid",
    ),
    ("fit vea --help", "unknown model 'vea'", "did you mean 'vae'"),
    ("compare vea --help", "unknown model 'vea'", "did you mean 'vae'"),
    (
        "compare '[vea]' --data iris",
        "unknown model 'vea'",
        "did you mean 'vae'",
    ),
    ("show ''", "unknown name ''", "known: dlgm, gmm, ppca"),
    (
        "show my.py:Missing",
        "my.py has no ppvae.Model called 'Missing'",
        "it has Linear, Needy, NoEvent, WrongSize, Blind, Guided, Hid",
    ),
    ("fit ppca --versions 3", "--versions", "must be a mapping like {a: 1} or null, got '3'"),
]


@pytest.mark.parametrize(("command", "thing", "way_out"), COMMANDS, ids=[c[0][:100] for c in COMMANDS])
def test_command_line(command: str, thing: str, way_out: str, capsys: pytest.CaptureFixture[str]) -> None:
    err = refused(command, capsys)
    assert thing in err
    assert way_out.lower() in err.lower()


def test_no_bad_command_is_listed_twice() -> None:
    commands = [command for command, _, _ in COMMANDS]
    assert len(set(commands)) == len(commands)


def test_every_command_and_every_bad_file_of_options_is_tried() -> None:
    assert {shlex.split(command)[0] for command, _, _ in COMMANDS} == set(ALL)
    tried = " ".join(command for command, _, _ in COMMANDS)
    assert [name for name in YAML if f"--config {name}" not in tried and name not in TRIED_ELSEWHERE] == []


#: in test_bad_input.py
TRIED_ELSEWHERE = {"broken.yaml", "list.yaml", "empty.yaml", "unknown.yaml", "wrong.yaml", "tag.yaml"}


# Numbers that are none, for every option that takes one

FIT = "fit ppca --data iris"
NUMBERS: dict[str, list[str]] = {
    FIT: ["num_particles", "batch_size", "lr", "lr_encoder", "beta", "free_bits", "warmup", "epochs", "steps",
          "seconds", "patience",
          "eval_every", "seed", "checkpoint_seconds", "num_train", "data_seed", "model.latent_dim", "model.min_scale"],
    f"{FIT} --inference per-datapoint": ["lr_phi", "inference_options.lr", "inference_options.tolerance",
                                         "inference_options.inner_steps", "inference_options.max_steps"],
    "fit gmm --data iris": ["model.num_components", "model.variance_floor", "model.reg_covar", "model.relative_floor",
                            "model.num_starts"],
    "fit vae": ["model.hidden", "model.latent_dim"],
    "fit dlgm": ["model.latent_dims", "model.hidden"],
    "compare ppca --data iris --inference exact": [
        "fit.epochs", "fit.lr", "fit.batch_size", "fit.seconds", "fit.checkpoint_seconds", "num_test",
        "num_samples", "workers", "num_train", "num_gaps", "tune_seconds", "seeds",
        "model.latent_dim"],
    "evaluate gmm": ["num_samples", "num_data", "num_gaps", "seed"],
    "sample gmm": ["num_samples", "seed"],
}  # fmt: skip


@pytest.mark.parametrize("value", ["1e999", "-1e999", ".inf", "-.inf", ".nan", "inf", "nan", "-1", "''", "[.inf]"])
@pytest.mark.parametrize(
    ("command", "option"), [(command, option) for command, options in NUMBERS.items() for option in options]
)
def test_numbers_that_are_none(command: str, option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    err = refused(f"{command} --{option}={value}", capsys)
    assert option.rpartition(".")[2].removesuffix("s") in err
    assert " must be " in err or "≥" in err


def takes_numbers(hint: Any) -> bool:
    return hint in (int, float) or bool({int, float} & set(get_args(hint)) - {str})


def test_every_option_that_takes_a_number_is_tried() -> None:
    untried = []
    for command in ("fit", "compare", "evaluate", "sample"):
        tried = {option for line, options in NUMBERS.items() if line.startswith(command) for option in options}
        words = {option: word for word, option in ALL[command].words.items()}
        number = [words.get(name, name) for name, each in ALL[command].options().items() if takes_numbers(each.hint)]
        untried += [f"{command} {name}" for name in number if name not in tried]
    assert untried == []


# A run that was damaged is listed, and says so


def test_damaged_runs_are_listed_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    from ppvae.cli.main import main

    assert main(["list", "--runs", "--folder", "."]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    for name in ("list-config", "cut-config", "empty-config", "results-cut", "results-schema", "results-rows"):
        assert "damaged" in lines[name]
    assert "ppvae fit --resume stopped-fit" in " ".join(out.split())
    assert "finished" in lines["gmm"]
