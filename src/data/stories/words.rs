//! The words that stories draw from: names, kinds, things, places, and lists of words that may stand for each other.

/// Names of boys and of he-animals.
pub(super) const BOYS: &[&str] = &[
    "Tom", "Ben", "Sam", "Max", "Leo", "Jack", "Finn", "Tim", "Hugo", "Oscar", "Felix", "Noah",
    "Paul", "Adam", "Bobby", "Henry", "Peter", "Toby", "Simon", "Ned",
];

/// Names of girls and of she-animals.
pub(super) const GIRLS: &[&str] = &[
    "Lily", "Anna", "Mia", "Rosie", "Ella", "Lucy", "Nora", "Ruby", "Sara", "Emma", "Ivy", "Zoe",
    "Molly", "Daisy", "Kate", "Sophie", "Clara", "Jane", "Wendy", "Alice",
];

/// What a hero may be, besides a boy or a girl.
pub(super) const ANIMALS: &[&str] = &[
    "cat", "dog", "fox", "bear", "rabbit", "mouse", "duck", "frog", "pig", "goat", "pony",
    "squirrel", "hedgehog", "lion", "monkey", "otter", "owl", "elephant",
];

/// What the hero is like.
pub(super) const TRAITS: &[&str] = &[
    "kind", "brave", "clever", "funny", "quiet", "cheerful", "shy", "curious", "friendly", "silly",
    "gentle", "polite", "lively", "young", "little", "small", "happy", "playful", "eager", "merry",
];

/// The family of the hero.
pub(super) const ELDERS: &[&str] = &["mother", "father", "grandma", "grandpa", "aunt", "uncle"];

/// What can be owned, carried, lost and given.
pub(super) const THINGS: &[&str] = &[
    "ball", "kite", "boat", "hat", "drum", "book", "bell", "doll", "blanket", "cart", "lamp",
    "spoon", "basket", "scarf", "whistle", "puzzle", "button", "coat", "flute", "cup", "bucket",
    "robot", "train", "ring", "pencil", "clock", "umbrella", "pillow", "mirror", "wagon",
];

/// What a thing looks like.
pub(super) const COLORS: &[&str] = &[
    "red", "blue", "green", "yellow", "pink", "purple", "orange", "white", "brown", "golden",
    "shiny", "old", "tiny", "round", "new", "pretty",
];

/// Where things happen: the preposition, and the place.
pub(super) const PLACES: &[(&str, &str)] = &[
    ("in", "the park"),
    ("in", "the garden"),
    ("by", "the river"),
    ("near", "the old mill"),
    ("in", "the forest"),
    ("on", "the hill"),
    ("at", "the beach"),
    ("by", "the pond"),
    ("in", "the meadow"),
    ("at", "the market"),
    ("behind", "the barn"),
    ("near", "the bridge"),
    ("in", "the yard"),
    ("by", "the lake"),
    ("at", "the farm"),
    ("near", "the school"),
    ("under", "the oak tree"),
    ("in", "the orchard"),
    ("by", "the fence"),
    ("near", "the well"),
];

/// What is eaten; each goes with "some" and with "the".
pub(super) const FOODS: &[&str] = &[
    "bread", "soup", "cake", "pie", "cheese", "jam", "honey", "rice", "pudding", "toast", "fruit",
    "corn", "milk", "salad", "stew", "porridge", "popcorn", "candy",
];

/// Small animals that are met on the way.
pub(super) const PETS: &[&str] = &[
    "bird",
    "turtle",
    "snail",
    "butterfly",
    "bee",
    "beetle",
    "mole",
    "bat",
    "kitten",
    "puppy",
    "chick",
    "lamb",
    "ant",
    "worm",
    "crab",
    "spider",
    "robin",
    "toad",
];

/// Lists that a template draws from anew each time: `<walked>`.
pub(super) const LISTS: &[(&str, &[&str])] = &[
    ("walked", &["walked", "ran", "went", "hurried", "hopped", "raced", "skipped"]),
    ("looked", &["looked", "searched", "hunted"]),
    ("found", &["found", "saw", "spotted", "noticed"]),
    ("loved", &["loved", "liked"]),
    ("wanted", &["wanted", "hoped", "wished"]),
    ("said", &["said", "said", "called", "whispered"]),
    ("then", &["then", "next", "but then", "and then"]),
    ("glad", &["happy", "glad", "proud", "pleased", "thankful", "cheerful", "full of joy"]),
    ("sad", &["sad", "unhappy", "upset", "worried", "sorry", "gloomy"]),
    ("scared", &["scared", "afraid", "frightened", "nervous"]),
    ("big", &["big", "large", "huge", "great"]),
    ("small", &["small", "little", "tiny"]),
    ("nice", &["nice", "lovely", "wonderful", "good", "fine"]),
    ("very", &["very", "so", "really", "quite"]),
    ("smiled", &["smiled", "laughed", "nodded", "grinned", "clapped", "cheered"]),
    ("soon", &["soon", "then", "after a while", "a little later", "before long", "at last"]),
    ("slowly", &["slowly", "carefully", "quietly", "softly", "gently"]),
    ("suddenly", &["suddenly", "all at once", "just then", "at that moment"]),
    ("played", &["played", "danced", "sang", "laughed", "rested", "talked", "sat"]),
    (
        "time",
        &[
            "all day",
            "until dark",
            "for a while",
            "until lunch",
            "all afternoon",
            "for a long time",
        ],
    ),
    (
        "hiding",
        &[
            "under the bed",
            "behind the door",
            "under the table",
            "in the box",
            "in the tall grass",
            "behind a bush",
            "under a chair",
            "on the shelf",
            "inside a boot",
            "between two rocks",
        ],
    ),
    (
        "day",
        &[
            "one day",
            "one morning",
            "one afternoon",
            "one evening",
            "one spring day",
            "one summer day",
            "one cold day",
            "on Monday",
            "on Friday",
            "on Sunday",
            "early one day",
            "after breakfast",
            "after lunch",
        ],
    ),
    (
        "sky",
        &[
            "the sun was bright",
            "the sky was gray",
            "the wind was strong",
            "the rain had stopped",
            "the air was cold",
            "the snow was deep",
            "the birds were singing",
            "the clouds were low",
            "the grass was wet",
            "the leaves were falling",
            "the flowers were open",
            "it was warm outside",
        ],
    ),
    (
        "game",
        &[
            "play tag",
            "draw pictures",
            "sing songs",
            "tell jokes",
            "climb trees",
            "pick flowers",
            "dance",
            "paint",
            "count the clouds",
            "read stories",
            "look for shells",
            "jump in puddles",
            "watch the ducks",
            "roll down hills",
            "collect stones",
            "build towers",
        ],
    ),
    (
        "home",
        &[
            "a small house",
            "a warm cottage",
            "a tall house",
            "a cozy cabin",
            "a red house",
            "a little hut",
            "a round tent",
            "a quiet village",
            "a busy town",
            "a far valley",
        ],
    ),
    ("far", &["with me", "this way", "over here", "along"]),
    ("thanks", &["Thank you", "Thank you so much", "Thanks", "Oh, thank you", "You are so kind"]),
    ("hello", &["Hello", "Good morning", "Hi there", "Hello there", "Good day"]),
    ("wow", &["Wow", "Oh my", "Hooray", "Look at that", "How wonderful", "What a surprise"]),
    ("helpme", &["Please help me", "Help me", "I need help", "Oh, help me"]),
    ("yes", &["Yes", "Of course", "Sure", "Yes, please", "I would love to"]),
];
