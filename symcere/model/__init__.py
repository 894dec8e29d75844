"""Everything that ranks: propagation, views, fusion, the recommender; closed-form baselines."""
