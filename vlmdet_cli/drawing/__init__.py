"""Drawing of panels, the contact sheet, the training curve and the page: images and records in, images out."""
