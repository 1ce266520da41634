"""Model servers on the KServe SDK: predictor, transformer and explainer of a verified model package."""
