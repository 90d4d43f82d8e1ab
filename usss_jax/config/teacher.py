"""Declarations of the fields of a teacher, whose pseudo-labels supervise other views of unlabeled images."""

from usss_jax.config.field import AT_LEAST_1, BOOL, NOT_NEGATIVE, SHARE, Field, Range, one_of, universal

SECTION = {"teacher": "Teacher and consistency of several views"}
_DROPOUT = Range("at least 0, below 1", lambda value: 0 <= value < 1)

FIELDS: dict[str, Field] = {
    "teacher.decay": universal(
        0.99,
        SHARE,
        "decay of the moving average of the weights and statistics that is the teacher; 0: the student itself",
    ),
    "teacher.decay_warmup": universal(
        True, BOOL, "whether the decay is at most 1 - 1 / (step + 1): at first the teacher is the mean of all steps"
    ),
    "teacher.export": universal(
        "teacher",
        one_of("student", "teacher"),
        "whose scores select the best checkpoint, whose variables it has, and whose are tested",
    ),
    # ---- Loss ----
    "teacher.weight": universal(1.0, NOT_NEGATIVE, "weight of the consistency term", per_domain=True, mixed=True),
    "teacher.ramp": universal(0, NOT_NEGATIVE, "steps over which the weight rises linearly from 0"),
    "teacher.targets": universal(
        "hard", one_of("hard", "soft"), "hard: the most probable class; soft: the probabilities of all classes"
    ),
    "teacher.threshold": universal(
        0.95,
        SHARE,
        "confidence (largest probability) below which a pixel has no target",
        per_domain=True,
        mixed=True,
    ),
    "teacher.threshold_kind": universal(
        "fixed",
        one_of("fixed", "adaptive"),
        "adaptive: per class the moving average of the confidence of the pixels predicted as it, at most "
        "`teacher.threshold`",
    ),
    "teacher.threshold_decay": universal(0.99, SHARE, "decay of that average"),
    "teacher.mean_over": universal(
        "valid",
        one_of("valid", "kept"),
        "pixels that the loss is a mean over; valid: all but padding, as in UniMatch; kept: those with a target",
    ),
    "teacher.cross_weight": universal(
        0.0,
        NOT_NEGATIVE,
        "weight of the agreement of the other domains' decoders with the teacher's, on the same views",
    ),
    "teacher.similarity_weight": universal(
        0.0,
        NOT_NEGATIVE,
        "weight of the agreement of the similarities with the other domains' label embeddings with the teacher's, on "
        "the same views; needs `usss.embedding_supervision`",
    ),
    # ---- Views ----
    "teacher.views": universal(1, AT_LEAST_1, "strong views per image, each a forward and a backward pass"),
    "teacher.mix": universal(
        "cutmix", one_of("none", "cutmix", "classmix"), "mixing of the unlabeled images of a micro-batch"
    ),
    "teacher.across": universal(
        "none",
        one_of("none", "labeled", "unlabeled"),
        "images of another domain, parts of which are pasted into half of the images by `teacher.mix`: labeled ones "
        "with their labels, or unlabeled ones with the teacher's; larger ones are cut at the right and below",
    ),
    "teacher.color_jitter": universal(0.5, SHARE, "strength of the strong view's `data.color_jitter`"),
    "teacher.grey": universal(0.2, SHARE, "probability of a grey strong view"),
    "teacher.blur": universal(0.5, SHARE, "probability of a blurred strong view"),
    "teacher.feature_dropout": universal(
        0.0,
        _DROPOUT,
        "probability with which a channel of the features is dropped, in a further pass on the weak view that has half "
        "of the weight; 0: no such pass",
    ),
}
