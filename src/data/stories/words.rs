//! The words of the stories: names, kinds, things, places, and lists of words that can replace each other.

/// Names of boys and of male animals.
pub(super) const BOYS: &[&str] = &[
    "Tom", "Ben", "Sam", "Max", "Leo", "Jack", "Finn", "Tim", "Hugo", "Noah", "Paul", "Adam",
    "Ned", "Toby",
];

/// Names of girls and of female animals.
pub(super) const GIRLS: &[&str] = &[
    "Lily", "Anna", "Mia", "Rosie", "Ella", "Lucy", "Nora", "Ruby", "Sara", "Emma", "Ivy", "Zoe",
    "Kate", "Jane",
];

/// The kinds of heroes besides a boy or a girl.
pub(super) const ANIMALS: &[&str] = &[
    "cat", "dog", "fox", "bear", "rabbit", "mouse", "duck", "frog", "pig", "goat", "pony", "lion",
    "owl", "monkey",
];

/// Character traits of the hero.
pub(super) const TRAITS: &[&str] = &[
    "kind", "brave", "clever", "funny", "quiet", "shy", "friendly", "silly", "gentle", "young",
    "little", "happy",
];

/// The family of the hero.
pub(super) const ELDERS: &[&str] = &["mother", "father", "grandma", "grandpa", "aunt", "uncle"];

/// Things that can be owned, carried, lost and given.
pub(super) const THINGS: &[&str] = &[
    "ball", "kite", "boat", "hat", "drum", "book", "bell", "doll", "cart", "lamp", "basket",
    "scarf", "cup", "bucket", "robot", "train", "ring", "clock", "box", "coat",
];

/// Looks of a thing.
pub(super) const COLORS: &[&str] = &[
    "red", "blue", "green", "yellow", "pink", "white", "brown", "shiny", "old", "tiny", "round",
    "new",
];

/// Places of events: the preposition, and the place.
pub(super) const PLACES: &[(&str, &str)] = &[
    ("in", "the park"),
    ("in", "the garden"),
    ("by", "the river"),
    ("in", "the forest"),
    ("on", "the hill"),
    ("at", "the beach"),
    ("by", "the pond"),
    ("in", "the meadow"),
    ("at", "the market"),
    ("behind", "the barn"),
    ("near", "the bridge"),
    ("at", "the farm"),
    ("under", "the oak tree"),
    ("near", "the well"),
];

/// Food; each word goes with "some" and with "the".
pub(super) const FOODS: &[&str] = &[
    "bread", "soup", "cake", "pie", "cheese", "jam", "honey", "rice", "corn", "fruit", "stew",
    "toast",
];

/// Small animals that are met on the way.
pub(super) const PETS: &[&str] = &[
    "bird", "turtle", "snail", "bee", "kitten", "puppy", "chick", "lamb", "ant", "mole", "bat",
    "toad",
];

/// Lists that a template draws from anew each time: `<walked>`.
pub(super) const LISTS: &[(&str, &[&str])] = &[
    ("walked", &["walked", "ran", "went", "hurried", "hopped"]),
    ("looked", &["looked", "searched"]),
    ("found", &["found", "saw", "spotted", "noticed"]),
    ("loved", &["loved", "liked"]),
    ("wanted", &["wanted", "hoped"]),
    ("said", &["said", "said", "called", "whispered"]),
    ("then", &["then", "but then"]),
    ("glad", &["happy", "glad", "proud", "pleased"]),
    ("sad", &["sad", "upset", "sorry", "worried"]),
    ("scared", &["scared", "afraid"]),
    ("big", &["big", "large", "huge"]),
    ("small", &["small", "little", "tiny"]),
    ("nice", &["nice", "lovely", "good", "fine"]),
    ("very", &["very", "so", "really", "quite"]),
    ("smiled", &["smiled", "laughed", "clapped", "cheered"]),
    ("soon", &["soon", "then", "after a while", "at last"]),
    ("slowly", &["slowly", "softly", "quietly"]),
    ("suddenly", &["suddenly", "just then"]),
    ("played", &["played", "danced", "sang", "talked", "sat"]),
    ("time", &["all day", "until dark", "for a while", "for a long time"]),
    (
        "hiding",
        &[
            "under the bed",
            "behind the door",
            "under the table",
            "in the box",
            "in the tall grass",
            "under a chair",
            "behind a bush",
            "under a leaf",
        ],
    ),
    (
        "day",
        &[
            "one day",
            "one morning",
            "one evening",
            "one cold day",
            "one warm day",
            "on Monday",
            "on Sunday",
            "after lunch",
        ],
    ),
    (
        "sky",
        &[
            "the sun was bright",
            "the wind was strong",
            "the rain had stopped",
            "the air was cold",
            "the birds sang",
            "the grass was wet",
            "the leaves fell",
            "it was warm",
        ],
    ),
    (
        "game",
        &[
            "play tag",
            "draw",
            "sing songs",
            "tell jokes",
            "climb trees",
            "pick flowers",
            "dance",
            "paint",
            "read books",
            "look for shells",
            "jump in puddles",
            "watch the ducks",
        ],
    ),
    (
        "home",
        &[
            "a small house",
            "a tall house",
            "a red house",
            "a little hut",
            "a warm hut",
            "a big tent",
            "a far town",
        ],
    ),
    ("far", &["with me", "this way", "over here", "along"]),
    ("thanks", &["Thank you", "Thank you so much", "Oh, thank you"]),
    ("hello", &["Hello", "Good morning", "Hi"]),
    ("wow", &["Wow", "Oh my", "Hooray", "Look"]),
    ("helpme", &["Please help me", "Help me", "Oh, help me"]),
    ("yes", &["Yes", "Of course"]),
];
