-- Rollouts of a challenger beside the champion. Whatever decides does so in the database, so any gateway can.

-- Servers of versions that may become a rollout's challenger.
CREATE TABLE challengers (
    usecase          text NOT NULL,
    version          integer NOT NULL,
    signature        jsonb NOT NULL,
    usecase_document jsonb NOT NULL,
    transformer_url  text NOT NULL,
    predictor_url    text NOT NULL,
    explainer_url    text NOT NULL,
    updated_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (usecase, version),
    FOREIGN KEY (usecase, version) REFERENCES model_versions (name, version)
);

CREATE TABLE rollouts (
    id           uuid PRIMARY KEY,
    usecase      text NOT NULL,
    champion     integer NOT NULL,
    challenger   integer NOT NULL CHECK (challenger <> champion),
    plan         jsonb NOT NULL,
    status       text NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'promoted', 'rolled_back', 'aborted')),
    step         integer NOT NULL DEFAULT 0 CHECK (step >= 0),
    slow_seconds double precision,
    evidence     jsonb NOT NULL DEFAULT '{}',
    counted      jsonb,
    overall      jsonb,
    labelled_to  bigint NOT NULL DEFAULT (pg_current_xact_id()::text::bigint),
    why          text NOT NULL DEFAULT '',
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    step_since   timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The challenger gets requests only until then: where nobody decides any more, it gets none.
    lease_until  timestamptz NOT NULL DEFAULT '-infinity',
    decided_at   timestamptz NOT NULL DEFAULT '-infinity',
    ended_at     timestamptz,
    FOREIGN KEY (usecase, champion) REFERENCES model_versions (name, version),
    FOREIGN KEY (usecase, challenger) REFERENCES model_versions (name, version)
);
CREATE UNIQUE INDEX rollouts_one_running ON rollouts (usecase) WHERE status = 'running';

-- What gateways counted. `number` is the gateway's own, so a window that is sent twice counts once.
CREATE TABLE rollout_windows (
    rollout uuid NOT NULL REFERENCES rollouts ON DELETE CASCADE,
    gateway text NOT NULL,
    number  bigint NOT NULL,
    content jsonb NOT NULL,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    weighed boolean NOT NULL DEFAULT false,
    PRIMARY KEY (rollout, gateway, number)
);
CREATE INDEX rollout_windows_waiting ON rollout_windows (rollout) WHERE NOT weighed;

-- Every decision: who, why, and what it was based on.
CREATE TABLE rollout_events (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rollout uuid NOT NULL REFERENCES rollouts ON DELETE CASCADE,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    action  text NOT NULL CHECK (action IN ('start', 'advance', 'promote', 'roll_back', 'abort')),
    who     text NOT NULL CHECK (who <> ''),
    why     text NOT NULL CHECK (why <> ''),
    facts   jsonb NOT NULL
);
CREATE INDEX rollout_events_of_rollout ON rollout_events (rollout, id);

-- What became of what was predicted, as it becomes known; `tx` tells readers what was committed since they last looked.
CREATE TABLE outcomes (
    usecase  text NOT NULL,
    entity   jsonb NOT NULL CHECK (octet_length(entity::text) <= 2000),
    positive boolean NOT NULL,
    tx       bigint NOT NULL DEFAULT (pg_current_xact_id()::text::bigint),
    at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (usecase, entity)
);
CREATE INDEX outcomes_tx ON outcomes (usecase, tx);
CREATE INDEX predictions_of_entity ON predictions USING hash (entity);
