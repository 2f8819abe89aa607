from .settings import Training as Training
