"""Why a model said what it said: SHAP and LIME over groups of encoded columns, local and global."""

from fasttrack.explain.masking import FeatureSpace, stratified_background
from fasttrack.explain.results import Attribution, Explanation

__all__ = ["Attribution", "Explanation", "FeatureSpace", "stratified_background"]
