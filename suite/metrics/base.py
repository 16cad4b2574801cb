"""What the metrics have in common."""

import datasets
import evaluate


class ClassMetric(evaluate.Metric):
    """A metric of predictions and references: class numbers, one a row."""

    def _info(self):
        numbers = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description=ClassMetric.__doc__,
            features=datasets.Features({"predictions": numbers, "references": numbers}),
        )
