-- The best and the worst value of a series are looked for at each evaluation: at the two ends of this index.
CREATE INDEX scores_by_value ON scores (run, key, series, value, step, images) WHERE state = 'ok';
