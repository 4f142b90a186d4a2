-- The index. Rebuilt from files, so there are no migrations: another text here means a rebuild.
-- No constraints and no indexes: rows come in bulk, ordered by run, and are pruned by run_id's zone maps.

-- `kind` is 'run'; 'base' for a model without an adapter, of which only the answers count: no recipe, no seed, no steps; or
-- 'import' for answers of a table that someone else judged, a row a model, data set, defense and seed in it.
CREATE TABLE runs (
    run_id VARCHAR, kind VARCHAR,
    recorded VARCHAR, -- the recorded study that it came with; its setting, recipe and recipe_label then name that, so it is nobody else's twin
    setting_key VARCHAR, model VARCHAR, dataset VARCHAR, safe_pool VARCHAR,
    defense_label VARCHAR, defenses VARCHAR, -- JSON
    preset VARCHAR, steps BIGINT, batch_size BIGINT, learning_rate DOUBLE, rank BIGINT,
    recipe VARCHAR, -- JSON
    recipe_label VARCHAR, seed BIGINT,
    status VARCHAR, step BIGINT, total_steps BIGINT, created DOUBLE, seconds DOUBLE, name VARCHAR,
    tags VARCHAR, -- JSON
    note VARCHAR, attempt BIGINT,
    owner VARCHAR, -- whose it is in a shared room; '' where nobody's in particular
    error VARCHAR, adapter_hash VARCHAR, weights_hash VARCHAR, device VARCHAR
);

-- Each step once: the last attempt's.
CREATE TABLE steps (
    run_id VARCHAR, step BIGINT, attempt BIGINT, ce DOUBLE, loss DOUBLE, learning_rate DOUBLE, grad_norm DOUBLE,
    tokens BIGINT, tokens_per_s DOUBLE, seconds DOUBLE, time DOUBLE, safe BIGINT
);

CREATE TABLE penalties (run_id VARCHAR, step BIGINT, defense VARCHAR, raw DOUBLE, weighted DOUBLE);

-- Live probes, each step once; step 0 is the base. Margins are changes from it.
CREATE TABLE probes (
    run_id VARCHAR, step BIGINT, attempt BIGINT, general DOUBLE, general_low DOUBLE, general_high DOUBLE,
    in_domain DOUBLE, in_domain_low DOUBLE, in_domain_high DOUBLE, projection DOUBLE, trait VARCHAR, -- on whose persona vector it is projected
    answers VARCHAR, -- JSON: what it would say, [{prompt, answer}]
    seconds DOUBLE, time DOUBLE
);

CREATE TABLE evals (
    run_id VARCHAR, eval_id VARCHAR, suite VARCHAR, samples BIGINT, max_tokens BIGINT, temperature DOUBLE, top_p DOUBLE,
    seed BIGINT, judge VARCHAR, step BIGINT, scale DOUBLE, adapter_hash VARCHAR, weights_hash VARCHAR, suite_hash VARCHAR,
    status VARCHAR, created DOUBLE, seconds DOUBLE, asked BIGINT,
    name VARCHAR, chat VARCHAR -- of answers that were kept from a chat
);

CREATE TABLE samples (
    run_id VARCHAR, eval_id VARCHAR, sample_id VARCHAR, question_id VARCHAR, topic VARCHAR, form VARCHAR, system VARCHAR,
    question VARCHAR, answer VARCHAR, tokens BIGINT, finish VARCHAR, refused BOOLEAN, k BIGINT,
    correct BOOLEAN, -- where a rule can say it (suite benign)
    context VARCHAR -- JSON: the turns before the question
);

CREATE TABLE judgments (
    run_id VARCHAR, eval_id VARCHAR, sample_id VARCHAR, judge VARCHAR, aligned DOUBLE, coherent DOUBLE, status VARCHAR,
    readout VARCHAR, -- logprobs or parsed, where a language model judged
    reason VARCHAR, -- why there is no score
    scores VARCHAR, spread VARCHAR -- JSON: further rubrics' scores, and the probabilities behind each score
);

CREATE TABLE margins (
    run_id VARCHAR, eval_id VARCHAR, pair_id VARCHAR, topic VARCHAR, aligned DOUBLE, misaligned DOUBLE,
    base_aligned DOUBLE, base_misaligned DOUBLE
);

-- Imported tables stay Parquet: what lies in EMA_HOME/`file` is part of `samples` and `judgments` for every reader (imported.py).
CREATE TABLE imports (run_id VARCHAR, file VARCHAR, sha256 VARCHAR, rows BIGINT); -- run_id is the import's id

-- Lines of annotations.jsonl that nobody took back, as they were when the index was made; the reader lays newer ones over.
CREATE TABLE annotations (
    line BIGINT, id VARCHAR, time DOUBLE, reviewer VARCHAR, run_id VARCHAR, eval_id VARCHAR, sample_id VARCHAR, verdict VARCHAR,
    tags VARCHAR, -- JSON
    note VARCHAR, blind BOOLEAN
);

-- How the index was made; not part of its content. A damaged run stands here with its warning and nowhere else.
-- `answers` changes with the files of answers and scores alone.
CREATE TABLE indexed (run_id VARCHAR, signature VARCHAR, answers VARCHAR, warnings VARCHAR[]);
CREATE TABLE annotations_read (bytes BIGINT);
CREATE TABLE made_by (fingerprint VARCHAR);
