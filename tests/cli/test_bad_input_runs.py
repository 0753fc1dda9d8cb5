"""Bad input on the command line, of what came with runs: files of options, --resume, sample, report, new, lists.

As in `test_bad_input.py`: one line on stderr, exit status 2, and the disk as it was.
"""

import shlex
from pathlib import Path
from typing import Any, get_args

import pytest
from bad_places import YAML, enter, must_refuse, refused

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
    (
        "fit --resume stopped-compare",
        "stopped-compare is not a run of ppvae fit: a comparison continues with",
        "ppvae compare --resume stopped-compare",
    ),
    (
        "fit --resume compared",
        "compared is not a run of ppvae fit: a comparison continues with ppvae",
        "ppvae compare --resume compared",
    ),
    (
        "fit --resume compared/fits/ppca-exact-0",
        "compared/fits/ppca-exact-0 is finished",
        "ppvae evaluate compared/fits/ppca-exact-0 judges it",
    ),
    (
        "fit --resume stopped-by-hand",
        "stopped-by-hand started with a class, data or an encoder made in",
        "continue there with ppvae.fit(..., run_dir=, resume=True)",
    ),
    ("fit --resume no-config", "no-config is not a run", "it has no config.yaml"),
    ("fit --resume cut-config", "cut-config is damaged", "config.yaml"),
    ("fit --resume list-config", "list-config is damaged", "config.yaml"),
    (
        "fit --resume resume-no-checkpoint",
        "resume-no-checkpoint/checkpoint.pt is missing or damaged, or holds mor",
        "remove resume-no-checkpoint and start again",
    ),
    (
        "fit --resume resume-cut",
        "resume-cut/checkpoint.pt is missing or damaged, or holds more than ten",
        "remove resume-cut and start again",
    ),
    ("fit --resume resume-infinite", "lr", "must be a finite number > 0, got inf"),
    ("fit --resume resume-unknown", "unknown entry of config.yaml 'lk'", "known: name, data, dat"),
    (
        "fit --resume resume-model",
        "resume-model/checkpoint.pt is damaged or of another model (RuntimeErro",
        "remove resume-model and start again",
    ),
    ("fit --resume resume-word", "epochs", "must be a whole number ≥ 1, got 'x'"),
    (
        "fit --resume resume-no-name",
        "resume-no-name is not a run of ppvae fit: a comparison continues with",
        "ppvae compare --resume resume-no-name",
    ),
    ("fit --resume resume-no-versions", "resume-no-versions is damaged", "config.yaml"),
    ("fit --resume resume-options", "inference_options", "must be a mapping of options to values, got 3"),
    ("fit --resume stopped-fit --lr 0.1", "--resume takes all options from the run", "remove --lr"),
    ("fit --resume stopped-fit --seed 1", "--resume takes all options from the run", "remove --seed"),
    ("fit ppca --resume stopped-fit", "--resume takes all options from the run", "remove --name"),
    ("fit --resume stopped-fit --run_dir other", "--resume takes all options from the run", "remove --run_dir"),
    ("fit --resume stopped-fit --model.latent_dim 3", "--resume takes all options from the run", "remove --model"),
    ("fit --resume ''", ". is not a run", "it has no config.yaml"),
    ("fit --resume", "argument --resume: expected one argument", "see ppvae fit --help"),
    ("fit --resume=null", "ppvae fit needs a name", "ppvae list"),
    ("fit --resume 3", "3 is not a run", "it has no config.yaml"),
    ("fit --resume --data iris", "argument --resume: expected one argument", "see ppvae fit --help"),
    (
        "fit --config stopped-fit/config.yaml --resume stopped-fit",
        "--resume takes all options from the run",
        "remove --lr_phi",
    ),
    ("compare --resume missing", "missing is not a run", "it has no config.yaml"),
    ("compare --resume empty", "empty is not a run", "it has no config.yaml"),
    ("compare --resume my.py", "my.py is not a run", "it has no config.yaml"),
    (
        "compare --resume stopped-fit",
        "stopped-fit is not a comparison: a fit continues with ppvae fit",
        "ppvae fit --resume stopped-fit",
    ),
    ("compare --resume gmm", "gmm is not a comparison: a fit continues with ppvae fit --resume gmm", ""),
    ("compare --resume go-on-unknown", "unknown option 'sedes'", "did you mean 'seeds'"),
    (
        "compare --resume go-on-fit",
        "unknown option of fit 'epoch': did you mean 'epochs'? known: family,",
        "did you mean 'epochs'",
    ),
    ("compare --resume go-on-infinite", "epochs", "must be a whole number ≥ 1, got inf"),
    ("compare --resume go-on-word", "num_samples", "must be a whole number ≥ 1, got 'many'"),
    ("compare --resume go-on-fits", "fit", "did you mean 'models'"),
    ("compare --resume go-on-list", "go-on-list is damaged", "config.yaml"),
    ("compare --resume results-fit", "results-fit/fits/ppca-exact-0/results.json is damaged", "JSONDecodeError"),
    (
        "compare --resume evidence-cut",
        "evidence-cut/fits/ppca-exact-0/evidence.nc is damaged",
        "OSError('Unable to synchronously open file (file signature n",
    ),
    ("compare --resume metrics-cut", "metrics-cut/fits/ppca-exact-0 is damaged", "metrics.csv"),
    ("compare --resume config-cut", "config-cut/fits/ppca-exact-0 is damaged", "config.yaml"),
    ("compare --resume stopped-compare --seeds 1", "--resume takes all options from the run", "remove --seeds"),
    ("compare --resume stopped-compare --fit.lr 0.5", "--resume takes all options from the run", "remove --fit"),
    ("compare vae --resume stopped-compare", "--resume takes all options from the run", "remove --models"),
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
    ("sample stopped-fit", "stopped-fit is not finished", "ppvae fit --resume stopped-fit continues it"),
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
    ("sample gmm --out gmm.png", "a datum of iris has shape [4], which is not an image: use .csv or .npy", ""),
    ("sample gmm --out new.txt", "out: 'new.txt'", "must end in .png, .csv, .npy"),
    ("sample gmm --out no/such.csv", "out: 'no/such.csv' exists, or its folder does not", "choose another file"),
    ("sample gmm --out ''", "out: '' exists, or its folder does not", "choose another file"),
    ("sample gmm --out full", "out: 'full' exists, or its folder does not", "choose another file"),
    ("sample vae --out x.jpeg", "out: 'x.jpeg'", "must end in .png, .csv, .npy"),
    ("sample gmm --num_samples many", "--num_samples", "≥ 1, got 'many'"),
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
    ("report stopped-fit", "stopped-fit has no results yet", "fit --resume stopped-fit continues it"),
    ("report stopped-compare", "stopped-compare has no results yet", "compare --resume stopped-compare continues it"),
    ("report no-config", "no-config is not a run", "it has no config.yaml"),
    ("report cut-config", "cut-config is damaged", "config.yaml"),
    ("report list-config", "list-config is damaged", "config.yaml"),
    ("report no-outcome", "no-outcome has no results yet", "fit --resume no-outcome continues it"),
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
    ("report gmm --out x", "unknown option 'out'", ""),
    ("report gmm vae", "unknown word 'vae': one run was expected", ""),
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
    ("new 'a b.py' --out x", "unknown option 'out'", ""),
    ("new my-model.py/inside.py", "out: 'my-model.py/inside.py' exists, or its folder does not", "choose another file"),
    ("list --runs --folder missing", "no folder missing: runs are kept in runs/ of the folder where ppvae fi", ""),
    ("list --runs --folder my.py", "no folder my.py: runs are kept in runs/ of the folder where ppvae fit", ""),
    ("list --folder", "argument --folder: expected one argument", "see ppvae list --help"),
    ("list --runs missing", "--runs must be True or False, got 'missing'", ""),
    ("list --runs=maybe", "--runs must be True or False, got 'maybe'", ""),
    ("list --run", "unknown option 'run'", "did you mean 'runs'"),
    ("list extra", "unrecognized arguments: extra", "see ppvae list --help"),
    ("evaluate stopped-fit", "stopped-fit is not finished", "ppvae fit --resume stopped-fit continues it"),
    ("evaluate compared", "compared is a comparison", "name one of its fits, such as compared/fits/ppca-exact-0"),
    (
        "evaluate stopped-compare",
        "stopped-compare is a comparison",
        "name one of its fits, such as stopped-compare/fits/ppca-exa",
    ),
    ("evaluate gmm --overwrite=maybe", "--overwrite must be True or False, got 'maybe'", ""),
    ("evaluate gmm --overwrite 3", "--overwrite must be True or False, got 3", ""),
    ("evaluate gmm --out my.txt --overwrite", "out: 'my.txt' exists, or its folder does not", "choose another file"),
    ("evaluate by_hand --labels 3", "by_hand was fitted to data made in Python: name data to judge it on wi", ""),
    ("evaluate gmm --data letters.csv --labels x", "unknown column of 'letters.csv' 'x'", "known: a, b"),
    ("evaluate gmm --versions 3", "unknown option 'versions': known: num_samples, method, method_options,", ""),
    (
        "compare --config compared/config.yaml --run_dir compared",
        "compared exists and is not an empty folder",
        "choose another run directory",
    ),
    ("evaluate gmm --config list.yaml", "--config must name a file of YAML like 'seed: 1', one line per option,", ""),
    ("new --config list.yaml", "--config must name a file of YAML like 'seed: 1', one line per option,", ""),
    (
        "list --config broken.yaml",
        "--config: cannot read broken.yaml: while parsing a flow sequence in",
        "line 1, column 7",
    ),
    ("sample gmm 3", "unknown word '3': one run was expected, and a value follows its option,", ""),
    # files of options
    ("fit ppca --config stopped-fit/config.yaml --config missing.yaml", "config", "check the path"),
    (
        "fit --config stopped-compare/config.yaml",
        "unknown option 'num_samples': did you mean 'num_particles'? known:",
        "",
    ),
    (
        "compare --config stopped-fit/config.yaml",
        "lr_phi is a setting of every fit: write --fit.lr_phi, or in a file",
        "",
    ),
    ("fit --config .", "config", ""),
    ("fit --config ''", "--config: cannot read : [Errno 21] Is a directory: '.'", ""),
    ("fit --config my.py", "--config: cannot read my.py: mapping values are not allowed here in", ""),
    (
        "fit --config gmm/weights.safetensors",
        "--config: cannot read gmm/weights.safetensors: 'utf-8' codec can't",
        "UTF-8",
    ),
    ("show --config list.yaml", "--config must name a file of YAML like 'seed: 1', one line per option,", ""),
    (
        "fit --config broken.yaml",
        "--config: cannot read broken.yaml: while parsing a flow sequence in",
        "line 1, column 7",
    ),
    (
        "compare --config broken.yaml",
        "--config: cannot read broken.yaml: while parsing a flow sequence in",
        "line 1, column 7",
    ),
    ("fit --config list.yaml", "--config must name a file of YAML like 'seed: 1', one line per option,", ""),
    ("compare --config list.yaml", "--config must name a file of YAML like 'seed: 1', one line per option,", ""),
    ("fit --config empty.yaml", "--config must name a file of YAML like 'seed: 1', one line per option,", ""),
    ("compare --config empty.yaml", "--config must name a file of YAML like 'seed: 1', one line per option,", ""),
    ("fit --config word.yaml", "--config must name a file of YAML like 'seed: 1', one line per option,", ""),
    ("compare --config word.yaml", "--config must name a file of YAML like 'seed: 1', one line per option,", ""),
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
    ("fit --config wrong.yaml", "seed must be a whole number ≥ 0, got 'soon'", ""),
    (
        "compare --config wrong.yaml",
        "unknown option 'seed'",
        "did you mean 'seeds'",
    ),
    (
        "fit --config tag.yaml",
        "--config: cannot read tag.yaml: could not determine a constructor for",
        "line 1, column 7",
    ),
    ("fit --config infinite.yaml", "lr must be a finite number > 0, got inf", ""),
    ("compare --config infinite.yaml", "lr is a setting of every fit: write --fit.lr, or in a file lr under fit", ""),
    ("fit --config nan.yaml", "lr must be a finite number > 0, got nan", ""),
    ("compare --config nan.yaml", "lr is a setting of every fit: write --fit.lr, or in a file lr under fit", ""),
    ("fit --config beyond.yaml", "epochs must be a whole number ≥ 1, got inf", ""),
    ("compare --config beyond.yaml", "epochs is a setting of every fit: write --fit.epochs, or in a file", ""),
    ("fit --config infinite-epochs.yaml", "epochs must be a whole number ≥ 1, got inf", ""),
    ("compare --config infinite-epochs.yaml", "epochs is a setting of every fit: write --fit.epochs, or in a file", ""),
    ("fit --config infinite-seconds.yaml", "seconds must be a finite number > 0, got -inf", ""),
    ("compare --config infinite-seconds.yaml", "seconds", "write --fit.seconds"),
    ("fit --config nested.yaml", "unknown option 'fit': known: data, treatment, root, num_train, labels,", ""),
    (
        "compare --config nested.yaml",
        "fit has data, which is an option of the comparison itself: give data",
        "give data beside fit",
    ),
    ("fit --config deep.yaml", "ppvae fit needs a name (ppvae list has them), or --init and no name", ""),
    ("compare --config deep.yaml", "data sets are for ['name']: a mapping needs train and test, or train,", ""),
    ("fit --config flat-model.yaml", "unknown option 'latent_dim'", ""),
    ("compare --config flat-model.yaml", "unknown option 'latent_dim'", ""),
    ("fit --config word-model.yaml", "model must be a mapping of options to values, got 'latent_dim'", ""),
    ("compare --config word-model.yaml", "model_options must be a mapping of options to values, got 'latent_dim'", ""),
    ("fit --config list-model.yaml", "model must be a mapping of options to values, got ['latent_dim', 3]", ""),
    ("compare --config list-model.yaml", "model_options must be a mapping of options to values, got", ""),
    (
        "fit --config bad-model.yaml",
        "ppca: unknown option 'latnet_dim'",
        "did you mean 'latent_dim'",
    ),
    ("compare --config bad-model.yaml", "unknown option 'name'", ""),
    ("fit --config bad-value.yaml", "model.latent_dim must be a whole number, got inf", ""),
    ("compare --config bad-value.yaml", "unknown option 'name'", ""),
    ("fit --config bad-inference.yaml", "encoder", "must be a torch.nn.Module, got str"),
    (
        "compare --config bad-inference.yaml",
        "unknown option 'name': known: data, treatment, root, num_train, labels,",
        "",
    ),
    ("fit --config date.yaml", "name must be a word, got datetime.date(2026, 1, 1)", ""),
    ("compare --config date.yaml", "unknown option 'name'", ""),
    ("fit --config number-name.yaml", "name must be a word, got 3", ""),
    ("compare --config number-name.yaml", "unknown option 'name'", ""),
    ("fit --config list-name.yaml", "name must be a word, got ['ppca']", ""),
    ("compare --config list-name.yaml", "unknown option 'name'", ""),
    ("fit --config number-data.yaml", "data must be a name, a file, a torch data set or a ppvae.Data, not int:", ""),
    (
        "compare --config number-data.yaml",
        "unknown option 'name': known: data, treatment, root, num_train, labels,",
        "",
    ),
    ("compare --config null-data.yaml", "unknown option 'name'", ""),
    ("fit --config zero.yaml", "'a\\x00b' cannot be a run directory: embedded null byte", ""),
    ("compare --config zero.yaml", "unknown option 'name'", ""),
    ("fit --config twice.yaml", "lr must be a finite number > 0, got 'fast'", ""),
    ("compare --config twice.yaml", "unknown option 'name'", ""),
    ("fit --config own-config.yaml", "unknown option 'config': known: data, treatment, root, num_train,", ""),
    ("compare --config own-config.yaml", "unknown option 'config': known: data, treatment, root, num_train,", ""),
    ("fit --config resume.yaml", "--resume takes all options from the run", "remove --lr"),
    ("compare --config resume.yaml", "lr is a setting of every fit: write --fit.lr, or in a file lr under fit", ""),
    ("fit --config versions.yaml", "unknown option 'versions': known: data, treatment, root, num_train,", ""),
    ("compare --config versions.yaml", "unknown option 'name': known: data, treatment, root, num_train, labels,", ""),
    ("fit --config alias.yaml", "ppvae fit needs a name (ppvae list has them), or --init and no name", ""),
    ("compare --config alias.yaml", "dlgm: unknown option 'b': known: x_dim, latent_dims, hidden,", ""),
    (
        "fit --config tab.yaml",
        "--config: cannot read tab.yaml: while scanning for the next token found",
        "line 1, column 6",
    ),
    (
        "compare --config tab.yaml",
        "--config: cannot read tab.yaml: while scanning for the next token found",
        "line 1, column 6",
    ),
    ("fit --config binary.yaml", "ppvae fit needs a name (ppvae list has them), or --init and no name", ""),
    ("compare --config binary.yaml", "data must be a name, a file, a torch data set or a ppvae.Data, not", ""),
    ("compare --config models-list.yaml", "models must be names or classes, got {'ppca': {'latent_dim': 2}}", ""),
    ("compare --config models-number.yaml", "models must be names, got 3", ""),
    ("compare --config models-empty.yaml", "models is empty: name at least one", ""),
    (
        "compare --config models-word.yaml",
        "options of ppca must be a mapping of options to values, got 'latent_dim'",
        "",
    ),
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
    ("compare --config models-null.yaml", "models must be names or classes, got None", ""),
    ("compare --config fit-word.yaml", "fit", "must be a mapping of options to values, got 'fast'"),
    ("compare --config fit-list.yaml", "fit", "must be a mapping of options to values, got ['lr', 0.1]"),
    ("compare --config fit-unknown.yaml", "unknown option of fit 'epoch': did you mean 'epochs'? known: family,", ""),
    ("compare --config fit-nan.yaml", "lr", "must be a finite number > 0, got nan"),
    ("compare --config fit-infinite.yaml", "epochs must be a whole number ≥ 1, got inf", ""),
    (
        "compare --config fit-nested.yaml",
        "unknown option of fit 'fit'",
        "known: family",
    ),
    ("compare --config seeds-infinite.yaml", "seed must be a whole number ≥ 0, got inf", ""),
    ("compare --config seeds-null.yaml", "seed must be a whole number ≥ 0, got None", ""),
    ("compare --config seeds-map.yaml", "seeds must be a whole number or a list, each a whole number, got {0: 1}", ""),
    ("compare --config inference-map.yaml", "inference must be a word or a list, each a word, got {'exact': {}}", ""),
    (
        "compare --config inference-options.yaml",
        "per-datapoint: unknown option 'inner_stepz'",
        "did you mean 'inner_steps'",
    ),
    ("compare --config inference-flat.yaml", "unknown inference 'inner_steps': known: amortized, exact,", ""),
    ("fit ppca --config infinite.yaml", "lr", "must be a finite number > 0, got inf"),
    ("fit ppca --config nan.yaml", "lr", "must be a finite number > 0, got nan"),
    ("fit ppca --config infinite-seconds.yaml", "seconds", "must be a finite number > 0, got -inf"),
    ("fit ppca --config nested.yaml", "unknown option 'fit': known: data, treatment, root, num_train, labels,", ""),
    ("fit ppca --config resume.yaml", "--resume takes all options from the run", "remove --lr"),
    # models, their options and labels
    (
        "fit ppca --data iris --model.latent_dim=two",
        "model.latent_dim must be a whole number, got 'two'",
        "must be a whole number, got 'two'",
    ),
    (
        "fit ppca --data iris --model.latnet_dim=2",
        "ppca: unknown option 'latnet_dim'",
        "did you mean 'latent_dim'",
    ),
    ("fit ppca --data iris --model.latent_dim.deep 3", "model.latent_dim must be a whole number, got {'deep': 3}", ""),
    ("fit ppca --data iris --model.", "argument --model: expected one argument", "see ppvae fit --help"),
    ("fit ppca --data iris --model.=3", "ppca: unknown option ''", "known: x_dim, latent_d"),
    ("fit ppca --data iris --model. 3", "ppca: unknown option ''", "known: x_dim, latent_d"),
    ("fit ppca --data iris --model latent_dim=3", "--model", "a mapping of options to values"),
    ("fit --model.latent_dim 3", "ppvae fit needs a name", "ppvae list"),
    ("fit --data iris", "ppvae fit needs a name", "ppvae list"),
    (
        "compare --models '[ppca, gmm]' --data iris --model.latent_dim 3",
        "gmm: unknown option 'latent_dim'",
        "known: x_dim, num_comp",
    ),
    ("compare --models '[vae, dlgm]' --model.hidden '[8, 8]'", "model.hidden must be a whole number, got [8, 8]", ""),
    (
        "compare --models '[vae, dlgm]' --model.latent_dim 3",
        "dlgm: unknown option 'latent_dim'",
        "did you mean 'latent_dims'",
    ),
    (
        "compare --models '[vae, ppca]' --data iris --model.latent_dim two",
        "model.latent_dim must be a whole number, got 'two'",
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
    ("compare --models '{ppca: 3}' --data iris", "options of ppca must be a mapping of options to values, got 3", ""),
    ("compare --models '{large: {}}' --data iris", "unknown model 'large'", "known: dlgm, gmm, ppca"),
    ("compare --models '{large: null}' --data iris", "unknown model 'large'", "known: dlgm, gmm, ppca"),
    ("compare --models '{}' --data iris", "models is empty: name at least one", ""),
    ("compare --models '[[ppca]]' --data iris", "models must be names or classes, got ['ppca']", ""),
    ("compare --models '[3]' --data iris", "models must be names or classes, got 3", ""),
    ("compare --models 3 --data iris", "models must be names, got 3", ""),
    (
        "compare '{a: {model: ppca}, b: {model: pca}}' --data iris",
        "unknown model 'pca'",
        "did you mean 'ppca'",
    ),
    ("compare ppca --models gmm --data iris", "models is given twice", ""),
    ("fit ppca --name gmm --data iris", "name is given twice", ""),
    ("compare --models.ppca 3 --data iris", "--models", "write --models"),
    ("compare ppca --labels species", "labels='species' names a column of a .csv file, and 'digits' is not one", ""),
    (
        "compare ppca --data iris --labels 0",
        "labels=0 names a column of a .csv file, and 'iris' is not one",
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
        "labels='species' names a column of a .csv file, and 'iris' is not one",
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
    ("fit ppca --versions 3", "unknown option 'versions': known: data, treatment, root, num_train,", ""),
]


@pytest.mark.parametrize(("command", "thing", "way_out"), COMMANDS, ids=[c[0][:100] for c in COMMANDS])
def test_command_line(command: str, thing: str, way_out: str, capsys: pytest.CaptureFixture[str]) -> None:
    must_refuse(command, thing, way_out, capsys)


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
        "fit.epochs", "fit.lr", "fit.batch_size", "fit.seconds", "checkpoint_seconds", "num_test",
        "num_samples", "workers", "num_train", "data_seed", "num_gaps", "tune_seconds", "seeds",
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
    return hint in (int, float) or (bool({int, float} & set(get_args(hint))) and str not in get_args(hint))


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
