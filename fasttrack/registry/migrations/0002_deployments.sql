-- What is served for a use case. The model of a use case has the use case's name.

CREATE TABLE deployments (
    usecase          text PRIMARY KEY,
    version          integer NOT NULL,
    signature        jsonb NOT NULL,
    usecase_document jsonb NOT NULL,
    transformer_url  text NOT NULL,
    predictor_url    text NOT NULL,
    explainer_url    text NOT NULL,
    updated_at       timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (usecase, version) REFERENCES model_versions (name, version)
);

-- One row a change; version is null where the use case was taken out of service.
CREATE TABLE deployment_changes (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    usecase text NOT NULL,
    version integer,
    at      timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (usecase, version) REFERENCES model_versions (name, version)
);
CREATE INDEX deployment_changes_of_usecase ON deployment_changes (usecase, id);
