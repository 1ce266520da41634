-- What the gateway answered, to whom. The ids are made by the writer, so a batch that is sent twice lands once.
-- No foreign keys: a refused request may name a use case that does not exist, and must be kept all the same.

CREATE TABLE audit_log (
    id            uuid PRIMARY KEY,
    at            timestamptz NOT NULL,
    trace_id      text NOT NULL,
    usecase       text,
    subject       text,
    role          text,
    tenant        text,
    route         text NOT NULL,
    status        integer NOT NULL,
    model_version integer,
    digest        text,
    request_hash  text,
    latency_ms    double precision NOT NULL,
    cached        boolean NOT NULL,
    response      jsonb
);
CREATE INDEX audit_log_at ON audit_log (at);
CREATE INDEX audit_log_trace_id ON audit_log (trace_id);

CREATE TABLE predictions (
    prediction_id uuid PRIMARY KEY,
    at            timestamptz NOT NULL,
    usecase       text NOT NULL,
    version       integer NOT NULL,
    entity        jsonb NOT NULL,
    probability   double precision NOT NULL,
    value         double precision NOT NULL,
    lower         double precision NOT NULL,
    upper         double precision NOT NULL,
    explanation   jsonb,
    trace_id      text NOT NULL
);
CREATE INDEX predictions_of_usecase ON predictions (usecase, at);
CREATE INDEX predictions_trace_id ON predictions (trace_id);
