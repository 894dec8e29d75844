"""The words of synthetic reviews: what they say of an item, and what only of the rating."""

FACETS: dict[str, dict[str, tuple[str, ...]]] = {
    "part": {
        "gasket": ("gasket", "flange", "washer", "sealant", "grommet"),
        "strings": ("strings", "fretboard", "tuning", "strumming", "plectrum"),
        "filter": ("filter", "filtration", "cartridge", "sediment", "purifier"),
        "charger": ("charger", "voltage", "usb", "adapter", "amperage"),
        "blade": ("blade", "serrated", "cutting", "knife", "whetstone"),
        "lamp": ("lamp", "bulb", "lumens", "dimmer", "led"),
        "pump": ("pump", "psi", "suction", "nozzle", "inflating"),
        "hinge": ("hinge", "pivot", "bracket", "screws", "cabinet"),
        "strap": ("strap", "buckle", "harness", "sling", "shoulder"),
        "speaker": ("speaker", "bass", "treble", "bluetooth", "woofer"),
        "kettle": ("kettle", "spout", "teapot", "brewing", "infuser"),
        "brush": ("brush", "bristles", "scrubbing", "lather", "grooming"),
    },
    "material": {
        "brass": ("brass", "bronze", "copper", "alloy", "plated"),
        "leather": ("leather", "suede", "cowhide", "tanned", "calfskin"),
        "silicone": ("silicone", "rubber", "latex", "elastomer", "neoprene"),
        "bamboo": ("bamboo", "wooden", "oak", "walnut", "veneer"),
        "nylon": ("nylon", "polyester", "webbing", "canvas", "cordura"),
        "ceramic": ("ceramic", "porcelain", "glazed", "stoneware", "enamel"),
        "glass": ("glass", "borosilicate", "pane", "tempered", "mirrored"),
        "steel": ("steel", "chrome", "welded", "galvanized", "iron"),
        "cotton": ("cotton", "linen", "woven", "fleece", "flannel"),
        "carbon": ("carbon", "fiber", "graphite", "composite", "kevlar"),
        "foam": ("foam", "padding", "sponge", "polyurethane", "upholstery"),
        "aluminum": ("aluminum", "anodized", "titanium", "magnesium", "machined"),
    },
    "fit": {
        "oem": ("oem", "factory", "dealership", "manufacturer", "warranty"),
        "compatible": ("compatible", "aftermarket", "replacement", "interchangeable", "thirdparty"),
        "motorcycle": ("motorcycle", "scooter", "handlebar", "moped", "throttle"),
        "bicycle": ("bicycle", "cycling", "pedal", "derailleur", "spokes"),
        "camera": ("camera", "tripod", "lens", "dslr", "shutter"),
        "boat": ("boat", "marine", "kayak", "sailing", "outboard"),
        "laptop": ("laptop", "keyboard", "notebook", "desktop", "monitor"),
        "garden": ("garden", "lawn", "mower", "hedge", "patio"),
        "aquarium": ("aquarium", "fish", "terrarium", "reef", "goldfish"),
        "drums": ("drums", "cymbal", "snare", "percussion", "hihat"),
        "espresso": ("espresso", "barista", "portafilter", "grinder", "latte"),
        "camper": ("camper", "caravan", "rv", "trailer", "campsite"),
    },
    "feature": {
        "waterproof": ("waterproof", "rainproof", "watertight", "submersible", "gore"),
        "foldable": ("foldable", "folding", "collapsible", "retractable", "telescopic"),
        "magnetic": ("magnetic", "magnet", "neodymium", "magnets", "ferrite"),
        "rechargeable": ("rechargeable", "lithium", "battery", "mah", "cordless"),
        "adjustable": ("adjustable", "ratchet", "knob", "notches", "dial"),
        "insulated": ("insulated", "thermal", "vacuum", "insulation", "thermos"),
        "striped": ("striped", "stripes", "plaid", "checkered", "tartan"),
        "scented": ("scented", "lavender", "vanilla", "citrus", "eucalyptus"),
        "reflective": ("reflective", "fluorescent", "neon", "reflector", "highvis"),
        "solar": ("solar", "photovoltaic", "sunlight", "panels", "watt"),
        "programmable": ("programmable", "timer", "thermostat", "countdown", "scheduler"),
        "miniature": ("miniature", "pocket", "keychain", "handheld", "travel"),
    },
}
"""Facet -> attribute -> its objective words. No word stands twice, in a template, or among the sentiment words."""

OBJECTIVE = {
    "part": (
        "I bought this for the {}.",
        "It came down to the {} for me.",
        "You can see the {} on the second picture.",
        "I have used the {} every week since March.",
        "We compared the {} with our old one.",
        "My old one had a different {} on it.",
    ),
    "material": (
        "It is {} as described.",
        "You notice the {} when you hold it.",
        "It has a {} look and weighs what it should.",
        "I wanted {} and this is what it has.",
        "My brother asked me about the {} at once.",
        "The maker says {} and that is what came.",
    ),
    "fit": (
        "I got it for {} use.",
        "It went on with the {} in ten minutes.",
        "I needed something for the {} at home.",
        "Mine is for {} and nothing else.",
        "If you have {} in mind, this is the size.",
        "My neighbour has it next to the {} too.",
    ),
    "feature": (
        "It is {} as the page says.",
        "I picked it because of {}.",
        "The word {} on the box is what I went by.",
        "Being {} was the point of buying it.",
        "Look for {} in the list of details.",
        "We use it mostly for the {} side of things.",
    ),
}

POSITIVE = (
    "good", "great", "excellent", "lovely", "perfect", "amazing", "awesome", "nice", "wonderful", "fantastic",
    "superb", "brilliant",
)  # fmt: skip
MIXED = (
    "okay", "decent", "fine", "acceptable", "average", "reasonable", "mediocre", "passable", "tolerable",
    "adequate", "fair", "satisfactory",
)  # fmt: skip
NEGATIVE = (
    "bad", "terrible", "poor", "awful", "horrible", "disappointing", "useless", "dreadful", "lousy", "inferior",
    "pathetic", "annoying",
)  # fmt: skip
SENTIMENT = (
    "This is a {} product.",
    "{} all in all.",
    "What a {} buy.",
    "I had a {} time with it.",
    "My wife says it is {} and I agree.",
    "{} value for the money.",
    "Simply {}.",
    "The whole thing was {} from day one.",
    "It looks {} and it feels {}.",
    "A {} gift for anyone.",
)
VERDICT = {  # sentiment verbs stand in whole sentences
    "positive": ("I love it!", "Very happy with this.", "I recommend it.", "I really like it, the best I have had."),
    "mixed": ("It is alright I guess.", "Not sure what to think.", "Mixed feelings here.", "Could be better or worse."),
    "negative": ("I hate it.", "I regret this.", "The worst I have had.", "I am unhappy with it, avoid."),
}
SENTIMENT_WORDS: frozenset[str] = frozenset(
    {*POSITIVE, *MIXED, *NEGATIVE}
) | {
    "love", "happy", "recommend", "like", "best", "alright", "mixed", "better", "worse", "hate", "regret", "worst",
    "unhappy", "avoid", "value", "simply", "really", "very",
}  # fmt: skip
"""Generic sentiment: they follow the rating and never an item's attributes."""

NAMES = (
    "ada", "ben", "cora", "dan", "eva", "finn", "gina", "hugo", "iris", "jack", "kira", "liam", "mona", "nils",
    "olga", "paul", "quinn", "rosa", "sam", "tara", "uma", "vera", "will", "xena", "yuri", "zoe",
)  # fmt: skip
BRANDS = (
    "Norvik", "Halden", "Brixa", "Tessaro", "Ostmark", "Quillon", "Verano", "Dunmore", "Calix", "Fenwick", "Larkin",
    "Oribe",
)  # fmt: skip
