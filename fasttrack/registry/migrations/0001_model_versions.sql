-- Versions of models, what they came from, who let them pass, and which stage each is in.

CREATE TABLE models (
    name         text PRIMARY KEY CHECK (name <> '' AND length(name) <= 200),
    last_version integer NOT NULL DEFAULT 0 CHECK (last_version >= 0),
    created_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE model_versions (
    name       text NOT NULL REFERENCES models,
    version    integer NOT NULL CHECK (version > 0),
    digest     text NOT NULL CHECK (digest ~ '^sha256:[0-9a-f]{64}$'),
    uri        text NOT NULL CHECK (uri <> ''),
    stage      text NOT NULL DEFAULT 'candidate' CHECK (stage IN ('candidate', 'champion', 'challenger', 'archived')),
    metadata   jsonb NOT NULL DEFAULT '{}',
    metrics    jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, version),
    UNIQUE (name, digest)
);

-- The rule that a model has at most one champion is the database's, not the code's.
CREATE UNIQUE INDEX model_versions_one_champion ON model_versions (name) WHERE stage = 'champion';

CREATE TABLE lineage (
    name           text NOT NULL,
    version        integer NOT NULL,
    parent_version integer,
    lake_versions  jsonb NOT NULL,
    kafka_offsets  jsonb NOT NULL,
    code_commit    text NOT NULL,
    seed           bigint NOT NULL,
    search_space   jsonb NOT NULL,
    PRIMARY KEY (name, version),
    FOREIGN KEY (name, version) REFERENCES model_versions,
    FOREIGN KEY (name, parent_version) REFERENCES model_versions,
    CHECK (parent_version <> version)
);

CREATE TABLE stage_changes (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name           text NOT NULL,
    version        integer NOT NULL,
    previous_stage text,
    stage          text NOT NULL,
    who            text NOT NULL CHECK (who <> ''),
    why            text NOT NULL CHECK (why <> ''),
    at             timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (name, version) REFERENCES model_versions
);
CREATE INDEX stage_changes_of_version ON stage_changes (name, version, id);

CREATE TABLE approvals (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name     text NOT NULL,
    version  integer NOT NULL,
    who      text NOT NULL CHECK (who <> ''),
    why      text NOT NULL CHECK (why <> ''),
    decision text NOT NULL CHECK (decision IN ('approved', 'rejected')),
    at       timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (name, version) REFERENCES model_versions
);
CREATE INDEX approvals_of_version ON approvals (name, version, id);
