-- Named queries of the reader. $run_ids is a list of run ids; `seed` is the run's, `eval_seed` that of the sampling.
-- `samples` and `judgments` are views over what runs have written (`written_samples`, `written_judgments`) and imported Parquet, whose
-- rows bring one judgment with them: `samples.own_judge` and so on, so that no join is needed to read it (store.imported).

-- name: run_ids
SELECT run_id FROM runs WHERE kind = 'run' ORDER BY run_id

-- name: base_ids
SELECT run_id FROM runs WHERE kind = 'base' ORDER BY run_id

-- name: import_ids
SELECT run_id FROM runs WHERE kind = 'import' ORDER BY created, run_id

-- name: runs
SELECT runs.*, origin(recorded) AS origin FROM runs JOIN (SELECT DISTINCT unnest($run_ids::VARCHAR[]) AS run_id) USING (run_id) ORDER BY run_id

-- name: steps
SELECT steps.*, defense_label, seed, name, recorded
FROM steps JOIN runs USING (run_id) JOIN (SELECT DISTINCT unnest($run_ids::VARCHAR[]) AS run_id) USING (run_id)
ORDER BY run_id, step

-- name: penalties
SELECT penalties.*, defense_label, seed, name, recorded
FROM penalties JOIN runs USING (run_id) JOIN (SELECT DISTINCT unnest($run_ids::VARCHAR[]) AS run_id) USING (run_id)
ORDER BY run_id, defense, step

-- name: probes
SELECT probes.*, defense_label, seed, name, recorded
FROM probes JOIN runs USING (run_id) JOIN (SELECT DISTINCT unnest($run_ids::VARCHAR[]) AS run_id) USING (run_id)
ORDER BY run_id, step

-- name: evals
SELECT evals.run_id, eval_id, setting_key, defense_label, model, dataset, runs.seed, suite, evals.step, scale, evals.judge,
    samples, max_tokens, temperature, top_p, evals.seed AS eval_seed, evals.adapter_hash, evals.weights_hash, suite_hash,
    evals.status, evals.created, evals.seconds, asked, evals.name, chat
FROM evals JOIN runs USING (run_id) JOIN (SELECT DISTINCT unnest($run_ids::VARCHAR[]) AS run_id) USING (run_id)
ORDER BY run_id, eval_id

-- name: samples
-- One row a sample and judge; a sample that nobody judged has no judge. $limit and $offset count samples.
WITH chosen AS (
    SELECT samples.*, setting_key, defense_label, model, dataset, runs.seed, suite, evals.step, scale,
        evals.adapter_hash, evals.weights_hash, suite_hash, max_tokens, temperature, top_p, evals.seed AS eval_seed
    FROM samples JOIN evals USING (run_id, eval_id) JOIN runs USING (run_id)
        JOIN (SELECT DISTINCT unnest($run_ids::VARCHAR[]) AS run_id) USING (run_id)
    WHERE $suite::VARCHAR IS NULL OR suite = $suite
    ORDER BY run_id, eval_id, question_id, k, sample_id
    LIMIT $limit::BIGINT OFFSET $offset::BIGINT
)
SELECT run_id, eval_id, setting_key, defense_label, model, dataset, seed, suite, step, scale,
    sample_id, question_id, topic, form, system, question, answer, tokens, finish, refused, k, correct,
    judge, aligned, coherent, status, readout, reason, scores, spread,
    adapter_hash, weights_hash, suite_hash, max_tokens, temperature, top_p, eval_seed
FROM chosen LEFT JOIN judgments USING (run_id, eval_id, sample_id)
ORDER BY run_id, eval_id, question_id, k, sample_id, judge

-- name: sample_count
SELECT count(*) AS samples
FROM samples JOIN evals USING (run_id, eval_id) JOIN (SELECT DISTINCT unnest($run_ids::VARCHAR[]) AS run_id) USING (run_id)
WHERE $suite::VARCHAR IS NULL OR suite = $suite

-- name: margins
SELECT run_id, eval_id, setting_key, defense_label, model, dataset, runs.seed, suite, evals.step, scale,
    pair_id, topic, aligned, misaligned, base_aligned, base_misaligned,
    evals.adapter_hash, evals.weights_hash, suite_hash
FROM margins JOIN evals USING (run_id, eval_id) JOIN runs USING (run_id)
    JOIN (SELECT DISTINCT unnest($run_ids::VARCHAR[]) AS run_id) USING (run_id)
ORDER BY run_id, eval_id, pair_id

-- name: counts
SELECT run_id,
    coalesce(s.n, 0) AS steps, coalesce(p.n, 0) AS penalties, coalesce(l.n, 0) AS probes, coalesce(e.n, 0) AS evals,
    coalesce(a.n, 0) AS samples, coalesce(j.n, 0) AS judgments, coalesce(m.n, 0) AS margins
FROM runs JOIN (SELECT DISTINCT unnest($run_ids::VARCHAR[]) AS run_id) USING (run_id)
    LEFT JOIN (SELECT run_id, count(*) AS n FROM steps GROUP BY 1) AS s USING (run_id)
    LEFT JOIN (SELECT run_id, count(*) AS n FROM penalties GROUP BY 1) AS p USING (run_id)
    LEFT JOIN (SELECT run_id, count(*) AS n FROM probes GROUP BY 1) AS l USING (run_id)
    LEFT JOIN (SELECT run_id, count(*) AS n FROM evals GROUP BY 1) AS e USING (run_id)
    LEFT JOIN (SELECT run_id, count(*) AS n FROM samples GROUP BY 1) AS a USING (run_id)
    LEFT JOIN (SELECT run_id, count(*) AS n FROM judgments GROUP BY 1) AS j USING (run_id)
    LEFT JOIN (SELECT run_id, count(*) AS n FROM margins GROUP BY 1) AS m USING (run_id)
ORDER BY run_id

-- name: judges
-- Who judged answers of these runs; without $kept only those of suites.
SELECT judgments.judge, count(*) AS answers
FROM judgments JOIN evals USING (run_id, eval_id) JOIN (SELECT DISTINCT unnest($run_ids::VARCHAR[]) AS run_id) USING (run_id)
WHERE judgments.judge IS NOT NULL AND judgments.status IS DISTINCT FROM 'failed' AND ($kept::BOOLEAN OR suite <> 'kept')
GROUP BY 1 ORDER BY 1

-- name: answers_version
-- Changes with answers and scores alone, not while runs train.
SELECT md5(string_agg(run_id || coalesce(nullif(answers, ''), signature), ' ' ORDER BY run_id)) AS version FROM indexed

-- name: settled_version
-- Changes with runs that have ended, bases, imports and these runs, not while others train.
SELECT md5(string_agg(run_id || signature, ' ' ORDER BY run_id)) AS version
FROM indexed LEFT JOIN runs USING (run_id)
WHERE status IS NULL OR status NOT IN ('queued', 'running') OR list_contains($run_ids::VARCHAR[], run_id)

-- name: answer_evals
SELECT evals.run_id, eval_id, evals.run_id || '~' || eval_id AS evaluation, kind, setting_key, model, dataset, defense_label, defenses,
    suite, evals.name,
    CASE WHEN kind = 'import' THEN 'imported' ELSE origin(recorded) END AS origin
FROM evals JOIN runs USING (run_id) ORDER BY run_id, eval_id

-- name: answer_columns
-- What store.Columns holds of every answer. `key` names an answer, `question` all that was asked.
WITH numbered AS (
    SELECT evals.run_id, eval_id, row_number() OVER (ORDER BY evals.run_id, eval_id) - 1 AS eval FROM evals JOIN runs USING (run_id)
)
SELECT hash(run_id, eval_id, sample_id) AS key, eval, hash(question_id, topic, question, system) AS question, coalesce(k, 0) AS k,
    coalesce(tokens, 0) AS tokens, coalesce(refused, false) AS refused,
    coalesce(list_contains($cut_ends::VARCHAR[], finish), false) AS cut, stands
FROM placed_samples AS samples JOIN numbered USING (run_id, eval_id)
ORDER BY eval, question_id, samples.k, sample_id

-- name: answer_questions
SELECT hash(question_id, topic, question, system) AS number, any_value(question_id) AS question_id, any_value(topic) AS topic
FROM samples GROUP BY 1

-- name: answer_texts
SELECT hash(run_id, eval_id, sample_id) AS key, lower(answer) AS said FROM samples WHERE answer IS NOT NULL

-- name: question_texts
SELECT hash(question_id, topic, question, system) AS number, lower(any_value(question)) AS said FROM samples GROUP BY 1

-- name: judge_columns
SELECT hash(run_id, eval_id, sample_id) AS key, aligned, coherent, coalesce(status <> 'failed', false) AS judged,
    coalesce(status = 'refused', false) AS refused
FROM judgments WHERE judge = $judge

-- name: scores_of
-- What any judge gave these answers.
SELECT run_id, eval_id, sample_id, aligned, coherent
FROM judgments JOIN (
    SELECT DISTINCT unnest($run_ids::VARCHAR[]) AS run_id, unnest($eval_ids::VARCHAR[]) AS eval_id, unnest($sample_ids::VARCHAR[]) AS sample_id
) USING (run_id, eval_id, sample_id)
WHERE run_id IN (SELECT unnest($run_ids::VARCHAR[]))

-- name: answer_keys
SELECT hash(run_id, eval_id, sample_id) AS key
FROM (SELECT unnest($run_ids::VARCHAR[]) AS run_id, unnest($eval_ids::VARCHAR[]) AS eval_id, unnest($sample_ids::VARCHAR[]) AS sample_id)

-- name: answer_draws
-- A number of each answer that no version of DuckDB changes.
SELECT hash(run_id, eval_id, sample_id) AS key, md5_number_lower(run_id || '~' || eval_id || '~' || sample_id) AS draw FROM samples

-- name: answer_rows
-- Those with these numbers, in their order, with $judge's scores where that gave both. `place` counts from 1; $stands
-- has all of Columns.stands.
WITH wanted AS (SELECT unnest($keys::UBIGINT[]) AS key, generate_subscripts($keys::UBIGINT[], 1) AS place),
page AS (
    SELECT samples.*, place FROM placed_samples AS samples JOIN wanted ON hash(run_id, eval_id, sample_id) = wanted.key
    WHERE stands IN (SELECT unnest($stands::BIGINT[])) AND run_id IN (SELECT unnest($run_ids::VARCHAR[]))
),
known AS (
    SELECT run_id, eval_id, sample_id, status, aligned, coherent FROM written_judgments
    WHERE judge = $judge::VARCHAR AND run_id IN (SELECT unnest($run_ids::VARCHAR[]))
    UNION ALL
    SELECT run_id, eval_id, sample_id, own_status, own_aligned, own_coherent FROM page WHERE own_judge = $judge::VARCHAR
),
given AS (SELECT *, coalesce(NOT isnan(aligned) AND NOT isnan(coherent), false) AS both_given FROM known)
SELECT place, page.run_id, page.eval_id, page.sample_id, kind, recorded, setting_key, defense_label, model, dataset, runs.seed, suite, evals.step, scale,
    evals.name, chat, page.question_id, topic, form, page.k, system, context, question, answer, page.tokens, page.finish, correct,
    $judge::VARCHAR AS judge, CASE WHEN both_given THEN given.aligned END AS aligned,
    CASE WHEN both_given THEN given.coherent END AS coherent, given.status,
    evals.adapter_hash, evals.weights_hash, max_tokens, temperature, top_p, evals.seed AS eval_seed
FROM page JOIN evals USING (run_id, eval_id) JOIN runs USING (run_id) LEFT JOIN given USING (run_id, eval_id, sample_id)
ORDER BY place

-- name: annotations
SELECT * FROM annotations ORDER BY line

-- name: annotations_read
SELECT bytes FROM annotations_read

-- name: answer
-- One answer and where it comes from, a row a judge that judged it; one row where none did.
SELECT run_id, eval_id, sample_id, kind, recorded, setting_key, defense_label, model, dataset, recipe_label, runs.seed, suite, evals.step, scale,
    evals.name, chat, question_id, topic, form, k, system, context, question, answer, tokens, finish, correct,
    coalesce(refused, false) AS refused, judgments.judge, aligned, coherent, judgments.status, readout, reason, scores, spread,
    evals.adapter_hash, evals.weights_hash, runs.adapter_hash AS adapter_now, max_tokens, temperature, top_p,
    evals.seed AS eval_seed, evals.created
FROM samples JOIN evals USING (run_id, eval_id) JOIN runs USING (run_id) LEFT JOIN judgments USING (run_id, eval_id, sample_id)
WHERE run_id = $run_id AND eval_id = $eval_id AND sample_id = $sample_id
ORDER BY judgments.judge

-- name: kin
-- Whom a run's answers are read beside: the base of its model, and its undefended twins.
SELECT other.run_id, CASE other.kind WHEN 'base' THEN 'base' ELSE 'twin' END AS relation, other.status
FROM runs AS own JOIN runs AS other ON other.model = own.model AND other.run_id <> own.run_id AND other.recorded = own.recorded
WHERE own.run_id = $run_id AND own.kind = 'run' AND (
    other.kind = 'base' OR own.defense_label <> 'none' AND other.kind = 'run' AND other.defense_label = 'none'
    AND other.dataset = own.dataset AND other.recipe = own.recipe AND other.seed = own.seed
)
ORDER BY other.kind, other.created DESC, other.run_id

-- name: same_question
-- What others answered to the same question, with $judge's scores: for a suite the base and the undefended twins, for kept
-- answers whoever was kept under the same name. One answer each: of the same state of the adapter and the same sampling if there
-- is one, the newest, and with the same number. `answers` is how many that evaluation has. Nobody is kin to imported answers.
WITH own AS (
    SELECT samples.*, suite, evals.step, scale, evals.name, chat, max_tokens, temperature, top_p
    FROM written_samples AS samples JOIN evals USING (run_id, eval_id)
    WHERE run_id = $run_id AND eval_id = $eval_id AND sample_id = $sample_id
),
kin AS (@kin),
given AS (
    SELECT samples.*, kind, model, defense_label, runs.seed, evals.suite, evals.step, evals.scale, evals.adapter_hash, evals.max_tokens,
        evals.temperature, evals.top_p, coalesce(relation, 'kept') AS relation, own.k AS own_k,
        evals.step IS NOT DISTINCT FROM own.step AND evals.scale IS NOT DISTINCT FROM own.scale AS same_state,
        evals.step IS NULL AND evals.scale = 1 AS final,
        coalesce(evals.step IS NOT NULL OR evals.adapter_hash = runs.adapter_hash, true) AS current,
        evals.max_tokens = own.max_tokens AND evals.temperature = own.temperature AND evals.top_p = own.top_p AS same_sampling,
        evals.created, count(*) OVER (PARTITION BY samples.run_id, samples.eval_id) AS answers
    FROM written_samples AS samples JOIN evals USING (run_id, eval_id) JOIN runs USING (run_id)
        JOIN own ON samples.question = own.question AND coalesce(samples.system, '') = coalesce(own.system, '')
            AND evals.suite = own.suite AND ( -- in a chat's later turns each model goes on from its own answers
                coalesce(samples.context, '[]') = coalesce(own.context, '[]')
                OR evals.chat = own.chat AND samples.question_id = own.question_id
            )
        LEFT JOIN kin ON kin.run_id = samples.run_id
    WHERE (evals.run_id, evals.eval_id) <> (own.run_id, own.eval_id)
        AND CASE own.suite WHEN 'kept' THEN evals.name IS NOT DISTINCT FROM own.name ELSE kin.run_id IS NOT NULL END
),
best AS (
    SELECT * FROM given
    QUALIFY row_number() OVER (
        PARTITION BY run_id, CASE suite WHEN 'kept' THEN eval_id END
        ORDER BY same_state DESC, final DESC, current DESC, same_sampling DESC, created DESC, eval_id, abs(k - own_k), k, sample_id
    ) = 1
)
SELECT best.run_id, best.eval_id, best.sample_id, relation, kind, model, defense_label, seed, step, scale, k, answer, tokens, finish,
    current, same_sampling, answers, max_tokens, temperature, $judge::VARCHAR AS judge, aligned, coherent, judgments.status
FROM best LEFT JOIN judgments ON judgments.run_id = best.run_id AND judgments.eval_id = best.eval_id
    AND judgments.sample_id = best.sample_id AND judgments.judge = $judge::VARCHAR
ORDER BY CASE relation WHEN 'base' THEN 0 WHEN 'twin' THEN 1 ELSE 2 END, best.run_id, best.eval_id

-- name: opinions
SELECT judge, count(*) AS answers FROM judgments WHERE judge IS NOT NULL AND status IS DISTINCT FROM 'failed' GROUP BY 1 ORDER BY 1

-- name: in_common
-- Pairs of judges by how many answers both have scored.
SELECT a.judge AS first, b.judge AS second, count(*) AS answers
FROM judgments AS a JOIN judgments AS b USING (run_id, eval_id, sample_id)
WHERE a.judge < b.judge AND a.aligned IS NOT NULL AND b.aligned IS NOT NULL
GROUP BY ALL ORDER BY answers DESC, first, second

-- name: verdicts
-- What $judge said of every answer, and whose they are (imported ones are one's own).
SELECT run_id, eval_id, sample_id, question_id, topic, suite, defense_label, model, aligned, coherent, judgments.status,
    origin(recorded) AS origin
FROM judgments JOIN samples USING (run_id, eval_id, sample_id) JOIN evals USING (run_id, eval_id) JOIN runs USING (run_id)
WHERE judgments.judge = $judge::VARCHAR

-- name: answers_asked
-- Some answers by their keys, with a verdict of each.
SELECT run_id, eval_id, sample_id, question_id, topic, suite, defense_label, model, verdict,
    origin(recorded) AS origin
FROM (
    SELECT unnest($run_id::VARCHAR[]) AS run_id, unnest($eval_id::VARCHAR[]) AS eval_id, unnest($sample_id::VARCHAR[]) AS sample_id,
        unnest($verdicts::VARCHAR[]) AS verdict
) JOIN samples USING (run_id, eval_id, sample_id) JOIN evals USING (run_id, eval_id) JOIN runs USING (run_id)
