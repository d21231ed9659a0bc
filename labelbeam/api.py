"""The public names of the package, which `labelbeam` has as its own."""

# With `as`, because type checkers take other imported names for private ones.
from labelbeam.pipeline.label import label as label
from labelbeam.transforms.decode import DecodeImages as DecodeImages
from labelbeam.transforms.elements import DecodedImage as DecodedImage
from labelbeam.transforms.elements import EncodedImage as EncodedImage
from labelbeam.transforms.elements import Failure as Failure
from labelbeam.transforms.elements import ImageMetadata as ImageMetadata
from labelbeam.transforms.elements import ImageRef as ImageRef
from labelbeam.transforms.elements import Label as Label
from labelbeam.transforms.elements import Prediction as Prediction
from labelbeam.transforms.elements import id_of_uri as id_of_uri
from labelbeam.transforms.errors import ImageError as ImageError
from labelbeam.transforms.errors import LabelbeamError as LabelbeamError
from labelbeam.transforms.errors import Reason as Reason
from labelbeam.transforms.errors import RunError as RunError
from labelbeam.transforms.errors import UserError as UserError
from labelbeam.transforms.load import LoadImages as LoadImages
from labelbeam.transforms.loaders.image import decode as decode
from labelbeam.transforms.loaders.image import fetch_image as fetch_image
from labelbeam.transforms.models.probe import understand_model as understand_model
from labelbeam.transforms.models.spec import ModelOptions as ModelOptions
from labelbeam.transforms.models.spec import ModelSpec as ModelSpec
from labelbeam.transforms.predict import PredictLabels as PredictLabels
from labelbeam.transforms.read import ReadImageRefs as ReadImageRefs
from labelbeam.transforms.sources import HttpSettings as HttpSettings
from labelbeam.transforms.sources import Limits as Limits
from labelbeam.transforms.sources import Manners as Manners
from labelbeam.transforms.sources import Sources as Sources
