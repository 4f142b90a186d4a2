-- Named queries of the reader. $run_ids is a list of run ids; `seed` is the run's, `eval_seed` that of the sampling.

-- name: run_ids
SELECT run_id FROM runs ORDER BY run_id

-- name: runs
SELECT runs.* FROM runs JOIN (SELECT DISTINCT unnest($run_ids::VARCHAR[]) AS run_id) USING (run_id) ORDER BY run_id

-- name: steps
SELECT steps.*, defense_label, seed, name
FROM steps JOIN runs USING (run_id) JOIN (SELECT DISTINCT unnest($run_ids::VARCHAR[]) AS run_id) USING (run_id)
ORDER BY run_id, step

-- name: penalties
SELECT penalties.*, defense_label, seed, name
FROM penalties JOIN runs USING (run_id) JOIN (SELECT DISTINCT unnest($run_ids::VARCHAR[]) AS run_id) USING (run_id)
ORDER BY run_id, defense, step

-- name: evals
SELECT evals.run_id, eval_id, setting_key, defense_label, model, dataset, runs.seed, suite, evals.step, scale, evals.judge,
    samples, max_tokens, temperature, top_p, evals.seed AS eval_seed, evals.adapter_hash, evals.weights_hash, suite_hash,
    evals.status, evals.created, evals.seconds, asked
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
    sample_id, question_id, topic, form, system, question, answer, tokens, finish, refused, k,
    judge, aligned, coherent, status,
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
    coalesce(s.n, 0) AS steps, coalesce(p.n, 0) AS penalties, coalesce(e.n, 0) AS evals,
    coalesce(a.n, 0) AS samples, coalesce(j.n, 0) AS judgments, coalesce(m.n, 0) AS margins
FROM runs JOIN (SELECT DISTINCT unnest($run_ids::VARCHAR[]) AS run_id) USING (run_id)
    LEFT JOIN (SELECT run_id, count(*) AS n FROM steps GROUP BY 1) AS s USING (run_id)
    LEFT JOIN (SELECT run_id, count(*) AS n FROM penalties GROUP BY 1) AS p USING (run_id)
    LEFT JOIN (SELECT run_id, count(*) AS n FROM evals GROUP BY 1) AS e USING (run_id)
    LEFT JOIN (SELECT run_id, count(*) AS n FROM samples GROUP BY 1) AS a USING (run_id)
    LEFT JOIN (SELECT run_id, count(*) AS n FROM judgments GROUP BY 1) AS j USING (run_id)
    LEFT JOIN (SELECT run_id, count(*) AS n FROM margins GROUP BY 1) AS m USING (run_id)
ORDER BY run_id
